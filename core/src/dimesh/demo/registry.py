"""The demo of the registry: valid and invalid payloads, a compatible change of a schema and an incompatible one."""

from __future__ import annotations

from dimesh.demo.stage import Stage

LEAD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "lead_id": {"type": "string"},
        "email": {"type": "string", "format": "email"},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["lead_id", "email"],
}


async def play(stage: Stage) -> None:
    """Register, validate and evolve a schema; then show that the bus refuses an invalid payload."""
    from dimesh.bus.factory import EventBusFactory
    from dimesh.errors import IncompatibleSchemaError, SchemaValidationError
    from dimesh.events import Event, EventMetadata, Topics
    from dimesh.registry import LocalSchemaRegistry, SchemaEvolutionHelper

    registry = LocalSchemaRegistry(path=stage.folder / "registry.db")
    try:
        subject = "event.demo.lead"
        version = await registry.register_schema(subject, LEAD)
        stage.step(f"the schema was registered as {subject}", version == 1, f"version {version}")
        good = {"lead_id": "123", "email": "user@example.com", "score": 85}
        stage.step("a valid payload is accepted", await registry.validate(subject, good))
        wider = SchemaEvolutionHelper.add_optional_field(LEAD, "phone", {"type": "string"})
        version = await registry.register_schema(subject, wider)
        stage.step("an optional field is a compatible change", version == 2, f"version {version}")
        narrower = {**wider, "required": ["lead_id", "email", "phone"]}
        try:
            await registry.register_schema(subject, narrower)
            stage.step("a new required field is refused", False)
        except IncompatibleSchemaError as error:
            stage.step(
                "a new required field is refused", True, error.reasons[0] if error.reasons else str(error)
            )
        async with EventBusFactory.create("sqlite", path=stage.database, registry=registry) as bus:
            metadata = EventMetadata(source_pillar="Growth Engine", source_agent="web_form")
            await bus.publish(Topics.GROWTH, Event("demo.lead", metadata, good))
            try:
                await bus.publish(Topics.GROWTH, Event("demo.lead", metadata, {"lead_id": 7, "score": 101}))
                stage.step("the bus refuses a payload that violates the schema", False)
            except SchemaValidationError as error:
                stage.step(
                    "the bus refuses a payload that violates the schema, with each reason",
                    len(error.problems) >= 2,
                )
                for problem in error.problems:
                    stage.block(str(problem))
    finally:
        await registry.close()
