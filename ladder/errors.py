"""Errors that are the user's to mend."""


class UserError(ValueError):
    """One sentence that names the file, the key and the value, and says what would be right.

    The command line prints it without a stack trace and exits with 1.
    """


def known(what: str, name: object, names) -> UserError:
    """The error for an unknown ``name``: lists the names that exist."""
    return UserError(f"unknown {what} {name!r}; known: {', '.join(sorted(map(str, names)))}")
