"""Which library builds for which GPU, and what is said where none does."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from rar.export.cli import main
from rar.export.engine.target import RTX_ARCHS, choose
from rar.runtime import ExportError, InputError, ProviderError
from rar.runtime.session.tensorrt.library import Library, load_library


class TestChoose:
    def test_rtx_cards_take_tensorrt_rtx(self, rtx: Library) -> None:
        for arch in RTX_ARCHS:
            library, target = choose(arch)
            assert (library, target.library, target.version, target.arch) == (rtx, "tensorrt_rtx", rtx.version, arch)
            assert target.component == f"engines/tensorrt_rtx-{arch}-{rtx.version}"

    def test_they_are_those_that_the_library_knows(self, rtx: Library) -> None:
        known = {name.lower() for name in rtx.module.ComputeCapability.__members__} - {"none", "current"}
        assert known == set(RTX_ARCHS)

    @pytest.mark.parametrize("arch", ["sm90", "sm87", "sm100"])
    def test_others_are_refused_by_tensorrt_rtx(self, arch: str) -> None:
        with pytest.raises(ExportError, match=f"not for {arch}: data-centre GPUs .* take --library tensorrt"):
            choose(arch, "tensorrt_rtx")

    @pytest.mark.usefixtures("no_gpu")
    @pytest.mark.parametrize(("arch", "library"), [("sm90", None), ("sm87", None), ("sm89", "tensorrt")])
    def test_tensorrt_builds_on_the_target_only(self, arch: str, library: str | None) -> None:
        with pytest.raises(
            ExportError, match=f"builds for {arch} on a machine with such a GPU only, and here is no NV"
        ):
            choose(arch, library)

    @pytest.mark.usefixtures("no_gpu")
    def test_the_gpu_at_hand_where_none_is_named(self) -> None:
        with pytest.raises(ProviderError, match="no NVIDIA driver"):
            choose()

    @pytest.mark.parametrize("arch", ["", "89", "8.9", "sm", "sm8.9", "smabc", "rtx4090", "sm²"])
    def test_what_is_no_architecture(self, arch: str) -> None:
        with pytest.raises(InputError, match=r"compute capability as sm89 for 8\.9"):
            choose(arch)

    def test_an_unknown_library(self) -> None:
        with pytest.raises(InputError, match="choose tensorrt or tensorrt_rtx"):
            choose("sm89", "tensorflow")


class TestLibrary:
    def write(self, folder: Path, content: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """A module called tensorrt in place of any that is there."""
        (folder / "tensorrt").mkdir()
        if content is not None:
            (folder / "tensorrt" / "__init__.py").write_text(content)
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(folder))

    @pytest.mark.parametrize("content", [None, "", "raise ImportError('libnvonnxparser.so.11: cannot open')"])
    def test_one_that_is_not_there_or_not_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
    ) -> None:
        self.write(tmp_path, content, monkeypatch)
        with pytest.raises(ProviderError, match=r"tensorrt is not installed, or not whole .*JetPack"):
            load_library("tensorrt")

    @pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0"])
    def test_one_of_another_major_version(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.write(tmp_path, f"__version__ = '{version}'", monkeypatch)
        with pytest.raises(ProviderError, match=rf"tensorrt {version} is installed, .* works with 10 or 11\.x"):
            load_library("tensorrt")

    @pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
    def test_jetpack_6_and_servers_both_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.write(tmp_path, f"__version__ = '{version}'", monkeypatch)
        assert load_library("tensorrt").version == version


class TestCommand:
    @pytest.mark.usefixtures("tensorrt_rtx")
    def test_a_laptop_without_a_gpu_builds_and_says_what_is_left_to_do(
        self, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = str(shutil.copytree(tiny_bundle, tmp_path / "own"))
        assert main(["engine", root, "--target", "sm89", "--batch", "1", "4", "4", "--memory", "256"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in lines] == ["clip/visual.onnx", "clip/text.onnx", "not yet compared"]
        assert "built, sm89, tensorrt_rtx" in lines[0]
        assert main(["inspect", root]) == 0
        assert not re.search(r"on engine \(", capsys.readouterr().out)

    def test_errors_are_one_line(self, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (
            ["--target", "4090"],
            ["--target", "sm89", "--memory", "0"],
            ["--target", "sm75", "--precision", "fp8"],
        ):
            assert main(["engine", str(tiny_bundle), *arguments]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
