"""What the command line needs to know of a setting beside its field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """How the command line takes a setting; stands in the ``Annotated`` type of its field.

    Attributes:
        panel: Group of flags that it is shown in.
        name: The flag, such as ``--stream``; empty for the field's own name with dashes.
        default_as: How a default reads that has no value of its own (``None``) or a long one.
        elsewhere: Names of the same setting in other programs, without dashes in front. They are
            not accepted; who writes one is pointed to the flag.
        made_from_field: Whether the flag is made from the field. It is not where one flag stands
            for several values and is read by hand, such as ``--strategy epi,lora``.
    """

    panel: str
    name: str = ""
    default_as: str = ""
    elsewhere: tuple[str, ...] = ()
    made_from_field: bool = True
