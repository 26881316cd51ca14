"""What the ledger's state is made of; its values are `tallystick.values.Value`."""

from typing import TYPE_CHECKING, Self

from msgspec import Struct


class State(Struct, gc=False):
    """What changes by being copied: a draft changes the copy, the ledger adopts it. What a copy shares is immutable."""

    if TYPE_CHECKING:

        def copy(self) -> Self:
            """A shallow copy."""
            raise NotImplementedError

    else:
        copy = Struct.__copy__  # what `copy.copy` calls after a long search
