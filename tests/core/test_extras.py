"""Optional packages that are absent."""

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.extras import need


def test_an_absent_package_is_named_with_its_extra() -> None:
    with pytest.raises(
        SsferError, match=r"exporting needs the package ssfer_nowhere \(extra 'export'\).* make setup, or"
    ):
        need("ssfer_nowhere", "export", "exporting")
    with pytest.raises(SsferError, match=r"make setup-dev, or pip install 'ssfer\[cluster\]'"):
        need("ssfer_nowhere", "cluster", "a cluster")
    need("json", "export", "exporting")
