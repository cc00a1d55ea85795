"""What `make demo` shows after the photos: a picture that is refused, and recognised once its class is taught."""

from __future__ import annotations

from pathlib import Path

import pytest

from rar.export.starter.demo import main
from rar.runtime import Bundle


def test_a_stranger_is_refused_and_recognised_once_it_is_taught_and_the_bundle_stays(
    starter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = sorted(starter.parent.iterdir())
    before = Bundle.open(starter).component("memory").fingerprint
    assert main([str(starter)]) == 0
    said = capsys.readouterr().out
    first, second = said.split("The same picture, after 3 others were added as 'motorcycle'")
    assert "motorcycle  " not in first.partition("retrieved")[2]
    assert "\n  none of these  0.9" in first or "\n  none of these  1.0" in first
    assert "\n  motorcycle  0." in second
    assert "rar-export memory" in second.partition("Next")[2]
    assert "ms: decode" in first
    assert Bundle.open(starter).component("memory").fingerprint == before
    assert sorted(starter.parent.iterdir()) == beside


def test_no_bundle_is_an_error_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
