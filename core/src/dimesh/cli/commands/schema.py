"""``dimesh schema``: the schemas of the registry, and whether a new one could follow."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimesh.cli.completion import subject_names, topic_names
from dimesh.cli.context import import_from_working_folder, run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.spi.schema import Change

schema = typer.Typer(
    help="List, register, compare and check schemas.", no_args_is_help=True, rich_markup_mode=None
)

Subject = Annotated[
    str,
    typer.Argument(help="The subject, such as event.order.created.", autocompletion=subject_names),
]
References = Annotated[
    list[str] | None,
    typer.Option("--reference", help="NAME=SUBJECT:VERSION: what the schema calls NAME. May be repeated."),
]


@schema.callback()
def _group() -> None:
    """List, register, compare and check schemas."""


@schema.command("list")
def list_(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(help="Show the history of this subject.", autocompletion=subject_names)
    ] = "",
    prefix: Annotated[str, typer.Option(help="Only subjects whose names begin so.")] = "",
) -> None:
    """List the subjects, or the versions of one with what changed from one to the next."""
    run(_list(state_of(context), subject, prefix))


async def _list(state: State, subject: str, prefix: str) -> None:
    from dimesh.ops.schemas import history, list_subjects

    async with state.opened() as mesh:
        if subject:
            versions = await history(mesh.registry, subject)
            state.output.table(
                ("version", "id", "format", "created", "change"),
                [
                    (
                        v.version,
                        v.schema_id,
                        v.format,
                        v.created,
                        v.change + (" (deprecated)" if v.deprecated else ""),
                    )
                    for v in versions
                ],
                "",
            )
            return
        rows = await list_subjects(mesh.registry, prefix)
    state.output.table(
        ("subject", "versions", "latest", "format", "compatibility"),
        [(r.subject, r.versions, r.latest, r.format, r.compatibility) for r in rows],
        "no subjects yet: 'dimesh schema register SUBJECT FILE' adds one",
    )


@schema.command("get")
def get(
    context: typer.Context,
    subject: Subject,
    version: Annotated[int | None, typer.Option(help="The version; the newest one by default.")] = None,
) -> None:
    """Print a schema as it was registered."""
    run(_get(state_of(context), subject, version))


async def _get(state: State, subject: str, version: int | None) -> None:
    async with state.opened() as mesh:
        found = await mesh.registry.get_schema(subject, version)
    if state.output.as_json:
        state.output.document(
            {
                "subject": subject,
                "version": found.version,
                "schema_id": found.schema_id,
                "guid": found.guid,
                "format": found.format if isinstance(found.format, str) else found.format.value,
                "references": [asdict(reference) for reference in found.references],
                "schema": found.text,
            }
        )
        return
    state.output.say(*found.text.splitlines())


@schema.command("register")
def register(
    context: typer.Context,
    subject: Subject,
    file: Annotated[Path, typer.Argument(help="The schema: .json, .avsc or .proto.")],
    reference: References = None,
) -> None:
    """Register a schema as the next version of a subject. A schema that the subject has keeps its version."""
    run(_register(state_of(context), subject, file, reference or []))


async def _register(state: State, subject: str, file: Path, references: list[str]) -> None:
    from dimesh.ops.schemas import parse_reference, read_schema

    text, format_ = read_schema(file)
    async with state.opened() as mesh:
        made = await mesh.registry.register(
            subject, text, format_, references=[parse_reference(r) for r in references]
        )
    if state.output.as_json:
        state.output.document({"subject": subject, "version": made.version, "schema_id": made.schema_id})
        return
    state.output.say(f"{subject}: version {made.version}, id {made.schema_id}")


@schema.command("check")
def check(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="A subject, with FILE; or a folder with a file for each subject.",
            autocompletion=subject_names,
        ),
    ],
    file: Annotated[Path | None, typer.Argument(help="The schema to check against the subject.")] = None,
    reference: References = None,
) -> None:
    """Check whether schemas could be registered, without registering them; ends with code 1 if one could not. In a folder, the
    name of a file is its subject, such as event.order.created.json.
    """
    run(_check(state_of(context), target, file, reference or []))


async def _check(state: State, target: str, file: Path | None, references: list[str]) -> None:
    from dimesh.ops.schemas import check_files, parse_reference, schema_files

    if file is None and not Path(target).is_dir():
        raise ConfigurationError(f"{target} is no folder: name a folder, or a subject and a file")
    files = [(target, file)] if file is not None else schema_files(Path(target))
    async with state.opened() as mesh:
        rows = await check_files(mesh.registry, files, [parse_reference(r) for r in references])
    out = state.output
    if out.as_json:
        out.document([asdict(row) for row in rows])
    else:
        for row in rows:
            out.say(f"{row.subject}: {'compatible' if row.compatible else 'NOT compatible'}")
            out.say(*(f"  {reason}" for reason in row.reasons))
    if not all(row.compatible for row in rows):
        raise typer.Exit(ExitCode.FAILED)


@schema.command("diff")
def diff(
    context: typer.Context,
    subject: Subject,
    old: Annotated[int, typer.Argument(help="A version.")],
    new: Annotated[int, typer.Argument(help="Another version.")],
) -> None:
    """Print whether two versions read each other's data, and why not."""
    run(_diff(state_of(context), subject, old, new))


async def _diff(state: State, subject: str, old: int, new: int) -> None:
    from dimesh.ops import schemas

    async with state.opened() as mesh:
        found = await schemas.diff(mesh.registry, subject, old, new)
    out = state.output
    rows = [
        {
            "reader": new if c.reads else old,
            "writer": old if c.reads else new,
            "outcome": c.verdict.outcome.value,
            "differences": [asdict(d) for d in c.verdict.differences],
            "witness": None if c.verdict.witness is None else c.verdict.witness.value,
        }
        for c in found
    ]
    if out.as_json:
        out.document(rows)
        return
    for row, comparison in zip(rows, found, strict=True):
        out.say(f"version {row['reader']} reads data of version {row['writer']}: {row['outcome']}")
        out.say(*(f"  {difference}" for difference in comparison.verdict.differences))
        if comparison.verdict.witness is not None:
            out.say(f"  for example {json.dumps(row['witness'])}")


@schema.command("validate")
def validate(
    context: typer.Context,
    subject: Subject,
    file: Annotated[Path, typer.Argument(help="JSON: one document, or one in each line.")],
    version: Annotated[int | None, typer.Option(help="The version; the newest one by default.")] = None,
) -> None:
    """Check documents against a schema; ends with code 1 if one does not satisfy it."""
    run(_validate(state_of(context), subject, file, version))


async def _validate(state: State, subject: str, file: Path, version: int | None) -> None:
    from dimesh.ops.schemas import read_samples

    samples = read_samples(file)
    async with state.opened() as mesh:
        found = await mesh.registry.registered(subject, version)
    wrong = [(n, problem) for n, value in enumerate(samples, 1) for problem in found.schema.problems(value)]
    out = state.output
    if out.as_json:
        out.document([{"document": n, **asdict(problem)} for n, problem in wrong])
    else:
        out.say(*(f"document {n}: {problem}" for n, problem in wrong))
        bad = len({n for n, _ in wrong})
        out.say(
            f"{len(samples) - bad} of {len(samples)} documents satisfy {subject} (version {found.version})"
        )
    if wrong:
        raise typer.Exit(ExitCode.FAILED)


@schema.command("infer")
def infer(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="Samples: a JSON document or list, or one document in each line."),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="Use the newest events of this topic as samples.", autocompletion=topic_names),
    ] = None,
    type: Annotated[str | None, typer.Option(help="With --topic: only events of this type.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="With --topic: the largest number of events to read.")
    ] = 1_000,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="MODULE:CLASS",
            help="Use a pydantic model, a msgspec Struct, a dataclass or a TypedDict.",
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="The title of the schema.")] = "",
) -> None:
    """Print a JSON Schema that allows the samples of a file or the events of a topic, or that of a class, as a beginning."""
    given = [
        name for name, one in (("FILE", file), ("--topic", topic), ("--class", class_)) if one is not None
    ]
    if len(given) != 1:
        raise ConfigurationError(
            f"name one of FILE, --topic and --class, not {' and '.join(given) if given else 'none'}"
        )
    if type is not None and topic is None:
        raise ConfigurationError("--type belongs to --topic")
    made = run(_infer(state_of(context), file, topic, type, limit, class_, title))
    state_of(context).output.say(*json.dumps(made, indent=2, ensure_ascii=False).splitlines())


async def _infer(
    state: State,
    file: Path | None,
    topic: str | None,
    type_: str | None,
    limit: int,
    class_: str | None,
    title: str,
) -> dict[str, Any]:
    from dimesh.ops import inference

    if class_ is not None:
        from dimesh.handlers import import_object

        import_from_working_folder()
        made = inference.schema_of_class(import_object(class_, "class"))
        return {**made, "title": title} if title else made
    if topic is not None:
        async with state.opened() as mesh:
            samples = await inference.samples_of_topic(mesh.bus, topic, type_, limit)
    else:
        from dimesh.ops.schemas import read_samples

        assert file is not None
        samples = read_samples(file)
    return inference.infer(samples, title)


@schema.command("evolve")
def evolve(
    context: typer.Context,
    subject: Subject,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SCHEMA",
            help="Add a field; SCHEMA is a type such as string, or JSON. Optional, unless it has a --default.",
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="The default of an added field, which writers must send from now on; JSON or text.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Rename a field. An alias keeps the old name where the language has aliases, otherwise both are there.",
        ),
    ] = None,
    deprecate: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MESSAGE", help="Mark a field as deprecated.")
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register the result, if it is compatible.")
    ] = False,
) -> None:
    """Print the newest version of a subject after some changes, and whether it could be registered; ends with code 1 if it
    could not. Each option may be repeated.
    """
    from dimesh.ops.evolution import parse_changes

    changes = parse_changes(add or [], default or [], rename or [], deprecate or [])
    raise typer.Exit(run(_evolve(state_of(context), subject, changes, register)))


async def _evolve(state: State, subject: str, changes: list[Change], register: bool) -> int:
    from dimesh.ops import evolution

    async with state.opened() as mesh:
        made = await evolution.evolve(mesh.registry, subject, changes, register=register)
    out = state.output
    if out.as_json:
        out.document(asdict(made))
    else:
        out.say(*made.text.splitlines())
        rule = f"{made.mode}, {made.policy}"
        if made.compatible:
            out.note(f"{subject}: compatible with version {made.base} ({rule})")
        else:
            out.note(f"{subject}: NOT compatible with version {made.base} ({rule})")
            for reason in made.reasons:
                out.note(f"  {reason}")
        if made.version is not None:
            out.note(f"registered as version {made.version}")
    return ExitCode.OK if made.compatible else ExitCode.FAILED


@schema.command("delete")
def delete(
    context: typer.Context,
    subject: Subject,
    version: Annotated[int | None, typer.Option(help="Only this version.")] = None,
    permanent: Annotated[bool, typer.Option("--permanent", help="Erase what was deleted before.")] = False,
) -> None:
    """Delete a subject or one version of it. What refers to it, or was written with it, can still be read, until it is deleted
    once more with --permanent.
    """
    run(_delete(state_of(context), subject, version, permanent))


async def _delete(state: State, subject: str, version: int | None, permanent: bool) -> None:
    from dimesh.ops import schemas

    async with state.opened() as mesh:
        deleted = await schemas.delete(mesh.registry, subject, version, permanent)
    if state.output.as_json:
        state.output.document({"subject": subject, "deleted": deleted})
        return
    word = "erased" if permanent else "deleted"
    state.output.say(f"{word} {subject}: version {', '.join(map(str, deleted))}")
