"""The exception that stands for a mistake which the user can mend."""

__all__ = ["Unmet", "UserError"]


class UserError(ValueError):
    """Its message is one whole sentence that names the place, the value and the remedy; the command line prints it as it is."""


class Unmet(UserError):
    """Other processes did not come; a thread of JAX, which cannot be called off, still waits for them, and would say so at length."""
