"""The one error that the demo channel raises on purpose."""


class DemoError(Exception):
    """The channel cannot be made; says what, where and why, and what to do about it."""

    def __init__(self, message: str, *, hint: "str | None" = None) -> None:
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint
