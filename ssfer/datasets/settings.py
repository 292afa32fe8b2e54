"""The entries of `data.sources`: what every data set has to say, and the settings that some kinds have of their own."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ssfer.core.errors import unknown_name
from ssfer.core.labels import CLASS_SETS
from ssfer.core.settings import Positive, Section


class SourceSettings(Section):
    """One data set below `data.raw`; data sets with settings of their own have a subclass."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    kind: str
    path: str  # folder, zip or table, relative to data/raw/<data.raw>
    labeled: bool
    align: Literal["similarity", "resize"]
    corpus: bool = True  # training images of this source feed the pretraining corpus
    corpus_max: Positive | None = None  # cap of its images in the corpus, drawn with corpus.seed
    corpus_max_per_identity: Positive | None = None  # cap per person, drawn the same way
    counts: Literal["published", "any"] = "published"  # any: go on although the data set is not complete


class PlainSource(SourceSettings):
    kind: Literal["rendered", "identities", "casia_webface", "vggface2", "celeba", "sfew"]


class RafDbParams(SourceSettings):
    kind: Literal["rafdb"]
    images: Literal["aligned", "original"] = "aligned"


class AffectNetParams(SourceSettings):
    kind: Literal["affectnet"]
    classes: Literal[7, 8] = 8  # 7: contempt images are left out, as the 7-class benchmark does


class FerPlusParams(SourceSettings):
    kind: Literal["ferplus"]
    label_source: Literal["label.csv", "fer2013new.csv", "fer2013.csv"] = "label.csv"
    rule: Literal["plurality", "majority", "argmax8", "raw_majority"] = "plurality"
    test: tuple[Literal["FER2013Valid", "FER2013Test"], ...] = Field(("FER2013Valid", "FER2013Test"), min_length=1)


class AdienceParams(SourceSettings):
    kind: Literal["adience"]
    attribute: Literal["age", "gender"] = "age"
    fold: Annotated[int, Field(ge=0, le=4)] = 0  # the official fold that is tested on; the other four train
    images: Literal["aligned", "faces"] = "aligned"


class ClassFolderParams(SourceSettings):
    kind: Literal["class_folders"]
    labels: dict[str, str] = {}  # folder name -> class name, where they differ


class TableParams(SourceSettings):
    """A csv file with one row per photo."""

    kind: Literal["csv"]
    images: str = "."  # folder or zip with the photos, relative to the table's folder
    path_column: str = "path"
    label_column: str | None = "label"
    usage_column: str | None = None  # train, valid, test or none; without it labeled rows train, the others are none
    identity_column: str | None = None
    labels: dict[str, str] = {}  # value in the label column -> class name, where they differ


_KINDS = (PlainSource, RafDbParams, AffectNetParams, FerPlusParams, AdienceParams, ClassFolderParams, TableParams)
# kind -> the class that checks its entry in data.sources
SOURCE_KINDS: dict[str, type[SourceSettings]] = {
    kind: model for model in _KINDS for kind in get_args(model.model_fields["kind"].annotation)
}
AnySource = Annotated[
    PlainSource | RafDbParams | AffectNetParams | FerPlusParams | AdienceParams | ClassFolderParams | TableParams,
    Field(discriminator="kind"),
]


class DataSettings(Section):
    """Which images take part. `raw` names a folder below data/raw."""

    raw: str
    class_set: str
    sources: tuple[AnySource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.class_set not in CLASS_SETS:
            raise ValueError(str(unknown_name("class set", self.class_set, CLASS_SETS)))
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, found {names}")
        if not any(s.labeled for s in self.sources):
            raise ValueError("at least one source must have 'labeled: true'")
        return self
