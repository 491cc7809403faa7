"""The base of every piece of configuration in the trainer."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen pydantic model: unknown keys, infinities and NaN are refused; docstrings describe
    the fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
