"""The one exception that stands for a mistake which the user can mend."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Its message is one whole sentence that names the place, the value and the remedy; the command line prints it as it is."""
