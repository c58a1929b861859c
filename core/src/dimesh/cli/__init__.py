"""The ``dimesh`` command. :mod:`dimesh.cli.app` puts it together; each command group has a module of its own."""
