"""The configuration of an exported checkpoint: the wiring as rows, since its modelling file knows none by name.

Its source becomes part of that file (ladder.model.export), in the place of the package's own ``LadderConfig``.
"""

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from ladder.residual import Row, Table


@strict
class LadderConfig(LlamaConfig):
    """LlamaConfig with the wiring of the residual stream.

    wiring: its name. wiring_rows: attention and MLP of each layer in turn, the fields of its :class:`Row` that are not
    the default. tensor_parallel_size: the number of ranks T, if the wiring belongs to one.
    """

    model_type = "ladder"
    wiring: str = "standard"
    wiring_rows: list | None = None
    tensor_parallel_size: int | None = None

    def rows(self) -> Table:
        return Table(Row(**row) for row in self.wiring_rows)
