"""Base class and number types of the requests and responses of all HTTP interfaces."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dct_seg.web import FARTHEST


class Model(BaseModel):
    """Base class that rejects unknown fields, so that a misspelled one is an error, not a default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Pixels = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
Length = Annotated[float, Field(ge=0, le=FARTHEST)]
