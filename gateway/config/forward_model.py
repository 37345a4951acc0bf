"""The key `forward` of a route: which of its messages go to the cloud."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from gateway.config.field_model import FormulaText
from gateway.config.types import PositiveDurationMs, Section, fault, setting
from gateway.decode.forwarding import ForwardSpec

Difference = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_EVERY = "every"


class ForwardModel(Section):
    """Condition for sending messages to the cloud; others stay at the edge."""

    on_change: dict[str, Difference | PositiveDurationMs] | None = setting(
        None,
        description=(
            "Smallest change of each field that is sent, compared with what was sent last; texts and "
            "booleans are sent whenever they change. `every`: after this time the next message is sent in "
            "any case."
        ),
        examples=[{"power": 5.0, "every": "10m"}],
    )
    where: FormulaText | None = setting(
        None, description="A [CEL](https://cel.dev) expression over fields and levels of the topic."
    )

    @field_validator("on_change", mode="before")
    @classmethod
    def _are_numbers(cls, found: object) -> object:
        if isinstance(found, dict):
            for name, value in found.items():
                if (name == _EVERY) is not isinstance(value, str):
                    wanted = "a duration, such as 10m" if name == _EVERY else "a number, such as 5.0"
                    raise fault(f"{name} of on_change is not {wanted}", "such as {power: 5.0, every: 10m}")
        return found

    @model_validator(mode="after")
    def _is_one_of_both(self) -> ForwardModel:
        if (self.on_change is None) == (self.where is None):
            raise fault("forward has either on_change or where", "or write forward: true, or forward: false")
        if self.on_change is not None and not self.on_change.keys() - {_EVERY}:
            raise fault("on_change names no field", "such as on_change: {power: 5.0, every: 10m}")
        return self

    def spec(self) -> ForwardSpec:
        """Return the record for `gateway.decode.forwarding`."""
        changes = dict(self.on_change or {})
        every_ms = changes.pop(_EVERY, None)
        return ForwardSpec(
            everything=False,
            least_changes={name: float(least) for name, least in changes.items()},
            every_ms=None if every_ms is None else int(every_ms),
            where=self.where,
        )
