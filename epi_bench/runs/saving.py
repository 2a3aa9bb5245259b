"""Trained models as folders that can be loaded again, by transformers and as a run's model.

A run keeps its models beside its record::

    runs/0123456789ab/models/01-mini_math/   after the first experience, as it would be finished
    runs/0123456789ab/models/final/          after the last one
    runs/0123456789ab/adapters/final/        the same as a peft adapter, where one was trained
                                             that says all (and nothing is in the weights)

Each is written whole or not at all. A model that cannot be written costs no record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError, describe_error
from epi_bench.files import LEFT_IN_FOLDER, sweep, written_folder, written_into
from epi_bench.model.adapted import is_adapted
from epi_bench.model.location import GENERAL_TEXT, general_text
from epi_bench.runs.adapter_saving import AdapterSaving

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from epi_bench.model.load import Backbone

FINAL = "final"
"""Name of the folder of a run's finished model."""


class KeepModel(StrEnum):
    """Which models a run keeps."""

    NONE = "none"
    FINAL = "final"
    EVERY_EXPERIENCE = "every-experience"


def kept_names(keep: KeepModel, experiences: Sequence[str]) -> tuple[str, ...]:
    """Names of the folders that a run writes.

    Args:
        keep: Which models.
        experiences: Names of the run's experiences, in order.

    >>> kept_names(KeepModel.EVERY_EXPERIENCE, ["mini_math", "a task/2", "mini_code"])
    ('01-mini_math', '02-a-task-2', 'final')
    """
    if keep is KeepModel.NONE:
        return ()
    if keep is KeepModel.FINAL:
        return (FINAL,)
    numbered = enumerate(experiences[:-1], start=1)
    return (*(f"{number:02d}-{_file_name(name)}" for number, name in numbered), FINAL)


def _file_name(experience: str) -> str:
    return re.sub(r"[^\w.-]+", "-", experience, flags=re.ASCII)[:60].strip("-") or "experience"


class ModelKeeper:
    """Writes the models that a run is to keep.

    Args:
        folder: The run's folder.
        keep: Which models.
        save_model: A further folder for the finished model, or ``None``.
        experiences: Names of the run's experiences, in order.
        adapter_is_whole: Whether an adapter alone is the finished model; else none is kept.

    Attributes:
        problems: One line for each model that could not be written.
    """

    _adapters: AdapterSaving
    _backbone: Backbone
    _warn: Callable[[str], None]

    def __init__(
        self,
        folder: Path,
        keep: KeepModel = KeepModel.NONE,
        save_model: Path | None = None,
        experiences: Sequence[str] = (),
        adapter_is_whole: bool = True,
    ) -> None:
        self.adapter_is_whole = adapter_is_whole
        self.models = folder / "models"
        self.adapters = folder / "adapters"
        self.names = kept_names(keep, experiences)
        self.save_model = save_model
        self.problems: list[str] = []

    def check_space(self, model: nn.Module) -> None:
        """Find out before the training whether the disk has room for the models.

        Args:
            model: As it was loaded.

        Raises:
            UserError: If it has not.
        """
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        if self.names:
            _require_space(self.models, size * len(self.names), "the models of keep_model")
        if self.save_model is not None:
            _require_space(self.save_model, size, "the model of save_model")

    def begin(self, backbone: Backbone, warn: Callable[[str], None]) -> None:
        """Get ready, before anything is kept.

        Args:
            backbone: What the models are trained from.
            warn: Told of each model that cannot be written.
        """
        self._backbone = backbone
        self._warn = warn
        if self.names:
            self._adapters = AdapterSaving(backbone.model)

    def begin_adapter(self, model: nn.Module) -> None:
        """Take in the model as the strategy prepared it, before the first step.

        Args:
            model: With an adapter or without.
        """
        if self.names and is_adapted(model):
            self._adapters.begin(model)

    def look_at_base(self, model: nn.Module) -> None:
        """Look at what lies under an adapter; call it before the adapter is kept.

        Args:
            model: As it is trained: an adapter is not merged.
        """
        if self.names and is_adapted(model):
            self._adapters.look_at_base(model)

    def keeps(self, experience: int) -> bool:
        """Whether the model is kept that there is after an experience which is not the last.

        Args:
            experience: Its position, from 0.
        """
        return experience < len(self.names) - 1

    def keep_unfinished(self, experience: int, model: nn.Module) -> None:
        """Keep the model of an experience that is not the last.

        Args:
            experience: Its position, from 0.
            model: As ``Strategy.as_finished`` gives it; it is left as it is.
        """
        name = self.names[experience]
        self.keep_adapter(model, name)
        self._write(name, model)

    def miss(self, experience: int) -> None:
        """Say that a model is not there which an earlier process was not asked to keep.

        Args:
            experience: Its position, from 0.
        """
        self._note(
            f"the model was not saved to {self.models / self.names[experience]}: the run goes on "
            "after it; the argument force makes the run from the beginning"
        )

    def keep_adapter(self, model: nn.Module, name: str = FINAL) -> None:
        """Keep the adapter of a model that has one: call it before it is merged.

        Args:
            model: As it is trained, in the precision in which it is saved.
            name: Of the folder.
        """
        if name not in self.names or not self.keeps_adapter(model):
            return
        place = self.adapters / name
        reason = self._adapters.obstacle(model)
        if reason is None and not self.adapter_is_whole:
            reason = "alone it is not the finished model"
        if reason is not None:
            self._warn(
                f"the adapter is not saved to {place}: {reason}; {self.models / name} is the whole "
                "model"
            )
            return
        with self._noting(place), written_folder(place) as folder:
            self._adapters.save(model, folder)

    def keeps_adapter(self, model: nn.Module) -> bool:
        """Whether there is an adapter to keep.

        Args:
            model: As it is trained.
        """
        return bool(self.names) and is_adapted(model)

    def keep_final(self, model: nn.Module) -> None:
        """Keep the finished model, here and where else it was asked for.

        Args:
            model: As ``Strategy.finalize_model`` gives it, in the precision in which it is saved.
        """
        if FINAL in self.names:
            self._write(FINAL, model)
        if self.save_model is not None:
            with self._noting(self.save_model), written_into(self.save_model) as folder:
                save_model(model, self._backbone, folder)

    @property
    def writes_final(self) -> bool:
        """Whether :meth:`keep_final` has anything to do."""
        return FINAL in self.names or self.save_model is not None

    def sweep(self) -> None:
        """Remove what a run left behind that was killed. Call it as the run's only writer."""
        sweep(self.models, older_than=0)
        sweep(self.adapters, older_than=0)
        if self.save_model is not None:  # a folder of the user
            sweep(self.save_model, older_than=0, pattern=LEFT_IN_FOLDER)

    def _write(self, name: str, model: nn.Module) -> None:
        path = self.models / name
        with self._noting(path), written_folder(path) as folder:
            save_model(model, self._backbone, folder)

    @contextmanager
    def _noting(self, place: Path) -> Iterator[None]:
        """Whatever goes wrong inside is said and noted: the scores of hours are worth more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (what a library raises on a full disk differs)
            reason = getattr(error, "strerror", None) or describe_error(error)
            self._note(f"the model was not saved to {place}: {reason}")

    def _note(self, problem: str) -> None:
        self.problems.append(problem)
        self._warn(problem)


def save_model(model: nn.Module, backbone: Backbone, folder: Path) -> None:
    """Save a trained model with its tokenizer and its general text.

    Args:
        model: As it is to be loaded again. One with an adapter is saved with the adapter merged
            into its weights, and is afterwards as it was.
        backbone: What it was trained from.
        folder: Where to.

    Raises:
        TypeError: If it is no model that transformers can save.
    """
    from transformers import PreTrainedModel

    whole: Any = model
    weights = None
    if is_adapted(model):
        whole, weights = whole_model(model)
    if not isinstance(whole, PreTrainedModel):
        raise TypeError(f"a {type(whole).__name__} is no model of transformers")
    cached = whole.config.use_cache
    whole.config.use_cache = True  # training turns it off, generation wants it
    try:
        whole.save_pretrained(folder, state_dict=weights)
    finally:
        whole.config.use_cache = cached
    backbone.tokenizer.save_pretrained(folder)
    # otherwise a later run would measure retention on another text
    (folder / GENERAL_TEXT).write_text(general_text(backbone.location), encoding="utf-8")


def whole_model(adapted: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model that an adapter was put on, and its weights with the adapter merged.

    Args:
        adapted: A model of peft; its weights are left as they are, bit for bit.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = adapted.get_base_model()
    layers = {
        path: layer for path, layer in base.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    weights = {}
    for name, weight in base.state_dict().items():
        path = next((path for path in layers if name.startswith(f"{path}.")), None)
        if path is None:
            weights[name] = weight
        elif name.startswith(f"{path}.base_layer."):
            weights[name.replace(f"{path}.base_layer.", f"{path}.", 1)] = weight
    for path, layer in layers.items():
        if not layer.merged:
            weights.update({f"{path}.{name}": w for name, w in _merged(layer).items()})
    return base, weights


def _merged(layer: Any) -> dict[str, Any]:
    """The weights of one layer with its adapter; peft's unmerge() would subtract, and round."""
    parameters = dict(layer.get_base_layer().named_parameters(recurse=False))
    before = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.data = parameter.data.clone()
        layer.merge()
        return {name: parameter.data for name, parameter in parameters.items()}
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]
        layer.merged_adapters.clear()


def _require_space(folder: Path, size: int, what: str) -> None:
    import shutil

    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise UserError(
            f"{what} need {size / 2**20:,.1f} MB, but {existing} has {free / 2**20:,.1f} MB free: "
            "make room, or choose another folder",
            setting=what.rpartition(" ")[2],
        )
