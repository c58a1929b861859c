"""The built-in drivers. They are found through entry points, like everybody else's."""
