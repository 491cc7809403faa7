"""The base of every piece of configuration in the trainer."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen pydantic model: unknown keys are refused, docstrings describe the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
