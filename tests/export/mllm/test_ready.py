"""Ready-made ONNX graphs as a ranker, without PyTorch: against transformers and the tree, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ready_mllm
import tiny_mllm
import torch
from onnx import TensorProto, helper
from ready_mllm import edit

from rar.export.cli import main
from rar.export.mllm.chat import FileTokenizer
from rar.export.mllm.compare import LIMITS
from rar.export.mllm.ready import export_ready, read_folder
from rar.export.mllm.source import load
from rar.runtime import Bundle, Candidate, ExportError
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.modes import ask_likelihood
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.mllm.rows import RowDecoder
from rar.runtime.rank.mllm.tree import PICTURE, Segment, Tree
from rar.runtime.rank.protocol import Query

ABSENT = ("torch", "torchvision", "transformers", "open_clip", "timm", "peft", "accelerate", "onnxscript", "optimum")
NAMES = ["apple", "apple pie", "a black cat", "烤鸭", "Chevrolet Silverado 1500 Hybrid Crew Cab 2012"]
# The folder's model, and whether its decoder attends by GroupQueryAttention.
KINDS = [("smolvlm", False), ("smolvlm", True), ("fastvlm", False), ("llava_onevision", False)]


@dataclass(frozen=True)
class Made:
    """A folder of ready-made graphs, the bundle made of it, and transformers' model."""

    name: str
    grouped: bool
    folder: Path
    bundle: Path
    mllm: Any

    def reference(self, rows: np.ndarray[Any, Any], pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Inputs of transformers for one row with one picture."""
        if self.name != "llava_onevision":
            ids = torch.from_numpy(np.where(rows == PICTURE, self.mllm.image_token, rows))
            return dict(self.mllm.reference_inputs(ids, torch.from_numpy(pixels)))
        # Its graphs hold no end of a line, which transformers adds to every picture.
        with torch.inference_mode():
            embeds = self.mllm.embed(torch.from_numpy(np.where(rows == PICTURE, 0, rows))).clone()
            seen = self.mllm.vision(torch.from_numpy(pixels))[:, :-1]
            embeds[torch.from_numpy(rows == PICTURE)] = seen.reshape(-1, embeds.shape[-1])
        return {"inputs_embeds": embeds, "attention_mask": torch.ones(rows.shape, dtype=torch.int64)}

    def logits(self, row: list[int], pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """float32 [L, V] of transformers."""
        with torch.inference_mode():
            return np.asarray(self.mllm.reference(**self.reference(np.array([row]), pixels)).logits[0].numpy())


_made: dict[tuple[str, bool], Made] = {}


@pytest.fixture(scope="module")
def make(tiny_mllm_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """Writes and exports a model of `KINDS` at its first use. Shared: copy a folder before writing."""
    root = tmp_path_factory.mktemp("ready")

    def write(name: str, grouped: bool = False) -> Made:
        if (name, grouped) not in _made:
            source, place = tiny_mllm_folder(name), root / f"{name}-{grouped}"
            folder = ready_mllm.write_ready(source, place / "model", grouped=grouped)
            export_ready(folder, place / "bundle")
            _made[name, grouped] = Made(name, grouped, folder, place / "bundle", load(str(source)))
        return _made[name, grouped]

    return write


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}{'-grouped' if kind[1] else ''}")
def made(request: pytest.FixtureRequest, make: Callable[..., Made]) -> Made:
    """Each of `KINDS` in turn. Shared: change nothing."""
    return make(*request.param)


@pytest.fixture
def folder(make: Callable[..., Made], tmp_path: Path) -> Path:
    """A folder of this test's own: SmolVLM's."""
    return Path(shutil.copytree(make("smolvlm").folder, tmp_path / "model"))


@pytest.fixture
def clip(tiny_bundle: Path) -> Clip:
    return Clip(Bundle.open(tiny_bundle), "cpu", 1)


def opened(bundle: Path, clip: Clip) -> Mllm:
    return Mllm(Bundle.open(bundle), clip, 1)


def queries(photos: list[Path], count: int = 3) -> list[Query]:
    """Pictures with other names and another number of them each, so that their rows differ in length."""
    return [
        Query(load_image(path), np.zeros(1, np.float32), [Candidate(name, 0.5) for name in NAMES[: 5 - number]])
        for number, path in enumerate(photos[:count])
    ]


def test_the_command_needs_no_pytorch(make: Callable[..., Made], tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out = make("smolvlm").folder, tmp_path / "bundle"
    shutil.copytree(tiny_bundle, out)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        "from rar.export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", code, "mllm", str(out), "--onnx", str(folder)], check=True)
    assert main(["verify", str(out)]) == 0


def test_logits_are_those_of_transformers(made: Made, clip: Clip, photos: list[Path]) -> None:
    mllm = opened(made.bundle, clip)
    for query in queries(photos):
        names = [candidate.label for candidate in query.candidates]
        pixels, head = mllm.see([query]), mllm.prompt.head("choice")
        rest = [*mllm.prompt.picture("choice"), *mllm.prompt.tail("choice", names)]
        places = [(0, place) for place in range(len(rest))]
        (found,) = mllm.decoder.logits(head, [Tree([Segment(rest)], places)], pixels)
        prepared = made.mllm.preprocess([query.pixels])
        own = made.logits([*head, *rest], prepared)
        assert np.abs(found - own[len(head) :]).max() < 1e-3


def test_sixteen_greedy_tokens_are_those_of_generate(made: Made, clip: Clip, photos: list[Path]) -> None:
    mllm, asked = opened(made.bundle, clip), queries(photos)
    head = mllm.prompt.head("generate")
    rows = [
        [*mllm.prompt.picture("generate"), *mllm.prompt.tail("generate", [one.label for one in query.candidates])]
        for query in asked
    ]
    trees = [Tree([Segment(row)], [(0, len(row) - 1)]) for row in rows]
    found = mllm.decoder.greedy(head, trees, mllm.see(asked), [16] * 3, lambda _, written: False)
    for row, query, answer in zip(rows, asked, found, strict=True):
        inputs = made.reference(np.array([[*head, *row]]), made.mllm.preprocess([query.pixels]))
        with torch.inference_mode():
            own = made.mllm.reference.generate(
                **inputs, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
            )[0, -16:]
        assert answer == own.tolist()


def test_names_are_scored_as_by_transformers_one_after_the_other(made: Made, clip: Clip, photos: list[Path]) -> None:
    mllm, asked = opened(made.bundle, clip), queries(photos)
    rankings = MllmRanker(mllm, MllmOptions("likelihood")).rank(asked)
    for query, ranking in zip(asked, rankings, strict=True):
        names = [one.label for one in query.candidates]
        question = ask_likelihood(mllm.prompt, names)
        stem = [*mllm.prompt.head("likelihood"), *question.tree.segments[0].ids]
        pixels, means = made.mllm.preprocess([query.pixels]), []
        for target in question.targets:
            scores = torch.from_numpy(made.logits([*stem, *target[:-1]], pixels)).double().log_softmax(-1).numpy()
            means.append(scores[np.arange(len(stem) - 1, len(stem) + len(target) - 1), list(target)].mean())
        own = torch.tensor(means).log_softmax(-1).numpy()
        np.testing.assert_allclose(ranking.scores, own, atol=1e-3)
        assert np.argsort(ranking.scores).tolist() == np.argsort(own).tolist()


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: f"{kind[0]}{'-grouped' if kind[1] else ''}")
@pytest.mark.parametrize(
    "options",
    [
        MllmOptions("likelihood"),
        MllmOptions("choice", "rotate"),
        MllmOptions("choice", "calibrate"),
        MllmOptions("generate"),
    ],
    ids=lambda options: f"{options.mode}-{options.debias}",
)
def test_every_mode_ranks_as_by_the_tree(
    kind: tuple[str, bool],
    options: MllmOptions,
    make: Callable[..., Made],
    exported_mllm: Callable[[str], tiny_mllm.Exported],
    clip: Clip,
    photos: list[Path],
) -> None:
    rows, tree = opened(make(*kind).bundle, clip), opened(exported_mllm(kind[0]).bundle, clip)
    assert isinstance(rows.decoder, RowDecoder)
    asked = queries(photos)
    for one, other in zip(MllmRanker(rows, options).rank(asked), MllmRanker(tree, options).rank(asked), strict=True):
        assert one.fallback == other.fallback
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_many_names_are_scored_in_groups_that_memory_holds(
    make: Callable[..., Made], clip: Clip, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm, asked = opened(make("smolvlm").bundle, clip), queries(photos, 1)
    (whole,) = MllmRanker(mllm, MllmOptions("likelihood")).rank(asked)
    calls: list[int] = []
    run = RowDecoder._run

    def counted(self: Any, rows: Any, *rest: Any, **more: Any) -> Any:
        calls.append(len(rows))
        return run(self, rows, *rest, **more)

    monkeypatch.setattr(RowDecoder, "_run", counted)
    monkeypatch.setattr("rar.runtime.rank.mllm.rows.CACHE_BYTES", 1)
    (parts,) = MllmRanker(mllm, MllmOptions("likelihood")).rank(asked)
    assert calls == [1] * len(calls)
    assert len(calls) > 4
    np.testing.assert_allclose(whole.scores, parts.scores, atol=1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_manifest_says_how_names_are_run(
    grouped: bool, make: Callable[..., Made], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make("smolvlm", grouped).bundle
    info = Bundle.open(bundle).component("mllm").info
    assert info["attention"] == ("row" if grouped else "rows")
    assert (info["layers"], info["kv_heads"], info["head_dim"], info["dim"], info["vocab"]) == (2, 2, 16, 64, 600)
    assert main(["inspect", str(bundle)]) == 0
    told = capsys.readouterr().out
    assert ("one call for each name" if grouped else "one call for all names") in told


@pytest.mark.parametrize(
    ("variant", "precision"),
    [("fp16", "fp16"), ("quantized", "int8"), ("int8", "int8"), ("q4", "int4"), ("q4f16", "int4"), ("bnb4", "int4")],
)
def test_a_variant_is_held_to_the_fp32_graphs(
    variant: str, precision: str, folder: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    ready_mllm.write_variant(folder, variant)
    chosen = "decoder=int8" if variant == "int8" else variant  # a CPU has no convolution of int8 weights
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    info = export_ready(folder, out, chosen)
    least, most = LIMITS[precision]
    assert info["parity"]["logits"]["top1"] >= least
    assert 0 < info["parity"]["logits"]["kl"] <= most
    assert info["held_to"]["decoder.onnx"] == "decoder_model_merged.onnx"
    assert info["checks"]["decoder.onnx"]["precision"] == precision
    assert main(["verify", str(out)]) == 0
    # Alone it is held to what it gives here.
    for name in ready_mllm.GRAPHS:
        if variant != "int8":
            (folder / "onnx" / f"{name}.onnx").unlink()
    if variant != "int8":
        info = export_ready(folder, tmp_path / "alone", variant)
        assert info["parity"]["logits"] is None
        assert info["held_to"]["vision.onnx"] == f"vision_encoder_{variant}.onnx"


def test_each_graph_may_have_a_variant_of_its_own(folder: Path, tmp_path: Path) -> None:
    for variant in ("q4", "fp16"):
        ready_mllm.write_variant(folder, variant)
    info = export_ready(folder, tmp_path / "bundle", "vision=q4,embed=fp16")
    assert info["precision"] == {"vision": "int4 (q4)", "embed": "fp16", "decoder": "fp32"}
    assert info["held_to"]["embed.onnx"] == "embed_tokens.onnx"


def test_four_bits_and_grouped_attention_run_together(
    make: Callable[..., Made], clip: Clip, photos: list[Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make("smolvlm", True).folder, tmp_path / "model"))
    ready_mllm.write_variant(folder, "q4")
    operators = {node.op_type for node in onnx.load(folder / "onnx" / "decoder_model_merged_q4.onnx").graph.node}
    assert {"GroupQueryAttention", "MatMulNBits"} <= operators
    export_ready(folder, tmp_path / "bundle", "q4")
    for ranking in MllmRanker(opened(tmp_path / "bundle", clip)).rank(queries(photos)):
        np.testing.assert_allclose(np.exp(ranking.scores).sum(), 1, rtol=1e-4)


def test_a_variant_that_is_too_far_off_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    ready_mllm.write_variant(folder, "fp16")

    def spoil(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 2:
                tensor.raw_data = np.random.default_rng(0).standard_normal(list(tensor.dims)).astype("<f2").tobytes()

    edit(folder / "onnx" / "decoder_model_merged_fp16.onnx", spoil)
    with pytest.raises(ExportError, match=r"too far from the fp32 ones, .*decoder_model_merged\.onnx: top-1"):
        export_ready(folder, tmp_path / "bundle", "decoder=fp16")
    assert not (tmp_path / "bundle" / "bundle.json").exists()


def test_halves_and_inputs_of_other_exports_are_taken(
    folder: Path, clip: Clip, photos: list[Path], tmp_path: Path
) -> None:
    export_ready(folder, tmp_path / "one")

    def change(model: onnx.ModelProto) -> None:
        """Keys and values of fp16, no position_ids, and the number of logits to keep."""
        graph = model.graph
        first, last = [], []
        for value in (*graph.input, *graph.output):
            name = value.name
            if not name.startswith(("past_key_values", "present")):
                continue
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
            inner = f"{name}.wide"
            for node in graph.node:
                for names in (node.input, node.output):
                    names[:] = [inner if one == name else one for one in names]
            taken = name.startswith("past")
            ends = ([name], [inner]) if taken else ([inner], [name])
            kind = TensorProto.FLOAT if taken else TensorProto.FLOAT16
            (first if taken else last).append(helper.make_node("Cast", *ends, to=kind))
        # The positions follow from the lengths, as in GroupQueryAttention with rotary positions of its own.
        positions = [
            helper.make_node("Shape", ["inputs_embeds"], ["new"], start=1, end=2),
            helper.make_node("Shape", ["attention_mask"], ["all"], start=1, end=2),
            helper.make_node("Squeeze", ["all"], ["end"]),
            helper.make_node("Sub", ["all", "new"], ["before"]),
            helper.make_node("Squeeze", ["before"], ["begin"]),
            helper.make_node("Range", ["begin", "end", "unit"], ["line"]),
            helper.make_node("Unsqueeze", ["line", "zeroth"], ["position_ids"]),
            helper.make_node("Identity", ["num_logits_to_keep"], ["ignored"]),
        ]
        graph.initializer.append(helper.make_tensor("unit", TensorProto.INT64, [], [1]))
        graph.initializer.append(helper.make_tensor("zeroth", TensorProto.INT64, [1], [0]))
        nodes = [*first, *positions, *graph.node, *last]
        kept = [value for value in graph.input if value.name != "position_ids"]
        kept.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
        del graph.node[:], graph.input[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.input.extend(kept)

    edit(folder / "onnx" / "decoder_model_merged.onnx", change)
    shutil.copytree(folder / "onnx", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "onnx")  # optimum puts them beside the JSON files
    export_ready(folder, tmp_path / "other")
    found = [MllmRanker(opened(tmp_path / name, clip)).rank(queries(photos)) for name in ("one", "other")]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-2)


def rewrite(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        config = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


def graph(name: str, change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "onnx" / f"{name}.onnx", change)


def strange_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def compiled(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type, model.graph.node[3].domain = "EPContext", "com.microsoft"


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="../../secret"))


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))


def no_cache(model: onnx.ModelProto) -> None:
    kept = [value for value in model.graph.input if not value.name.startswith("past")]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def several_positions(model: onnx.ModelProto) -> None:
    (value,) = [value for value in model.graph.input if value.name == "position_ids"]
    value.type.tensor_type.shape.dim.add().dim_value = 3


def other_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "last_hidden_state"


def other_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[4].dim_value = 32


def unlike(model: onnx.ModelProto) -> None:
    (value,) = [value for value in model.graph.input if value.name == "past_key_values.1.key"]
    value.type.tensor_type.shape.dim[1].dim_value = 4


VISION, EMBED, DECODER = ready_mllm.GRAPHS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
        (lambda folder: (folder / "generation_config.json").unlink(), r"generation_config\.json: cannot be read"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"preprocessor_config\.json: cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json: is no tokenizer"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), r"tokenizer_config\.json: cannot be read"),
        (lambda folder: (folder / "onnx" / f"{EMBED}.onnx").unlink(), r"lacks embed_tokens\.onnx .* in: none"),
        (rewrite("config.json", model_type="moondream"), "is a moondream model; supported as ready-made ONNX are"),
        (rewrite("config.json", image_token_id=10**6), "has a picture's token"),
        (rewrite("config.json", text_config={"max_position_embeddings": "many"}), "max_position_embeddings must be"),
        (rewrite("generation_config.json", eos_token_id=-1), "eos_token_id is -1"),
        (rewrite("preprocessor_config.json", max_image_size=None), "lacks max_image_size"),
        (rewrite("tokenizer_config.json", chat_template="{{ messages[0]['role'] }}"), "shows no picture"),
        (rewrite("tokenizer_config.json", chat_template="{% for %}"), "shows no picture"),
        (rewrite("tokenizer_config.json", chat_template=7), "chat template is no text"),
        (graph(DECODER, strange_operator), "operator .* of 'com.example'"),
        (graph(DECODER, compiled), "compiled code"),
        (graph(VISION, outside), "takes weights from '../../secret'"),
        (graph(DECODER, another_input), "takes 'use_cache_branch', which is unknown"),
        (graph(EMBED, another_input), "takes 'use_cache_branch', which is unknown"),
        (graph(VISION, another_input), "takes 'use_cache_branch', which is unknown"),
        (graph(DECODER, no_cache), "has no past_key_values"),
        (graph(DECODER, several_positions), "several dimensions"),
        (graph(DECODER, unlike), "several shapes of past_key_values"),
        (graph(DECODER, other_output), "gives no logits"),
        (graph(VISION, other_output), "gives no image_features"),
        (graph(VISION, other_size), "must be .*choose files that belong together"),
        (lambda folder: (folder / "onnx" / f"{DECODER}.onnx").write_bytes(b"no graph"), "no.* graph"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused(
    change: Callable[[Path], object], told: str, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    with pytest.raises(ExportError, match=told):
        export_ready(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "bundle.json").exists()
    assert not (tmp_path / "bundle" / "mllm").exists()


def test_graphs_of_two_models_are_refused(folder: Path, make: Callable[..., Made], tmp_path: Path) -> None:
    ready_mllm.write_variant(folder, "fp16")

    def narrow(model: onnx.ModelProto) -> None:
        """Half as wide as the others."""
        model.graph.initializer.append(helper.make_tensor("half", TensorProto.INT64, [1], [32]))
        model.graph.initializer.append(helper.make_tensor("begin", TensorProto.INT64, [1], [0]))
        model.graph.initializer.append(helper.make_tensor("last", TensorProto.INT64, [1], [2]))
        for node in model.graph.node:
            node.output[:] = ["wide" if name == model.graph.output[0].name else name for name in node.output]
        name = model.graph.output[0].name
        model.graph.node.append(helper.make_node("Slice", ["wide", "begin", "half", "last"], [name]))
        model.graph.output[0].type.tensor_type.ClearField("shape")

    edit(folder / "onnx" / "embed_tokens_fp16.onnx", narrow)
    with pytest.raises(ExportError, match="no row of one width; take graphs of one model"):
        export_ready(folder, tmp_path / "bundle", "embed=fp16")
    shutil.copy(make("llava_onevision").folder / "onnx" / "vision_encoder.onnx", folder / "onnx")
    with pytest.raises(ExportError, match="choose files that belong together"):
        export_ready(folder, tmp_path / "bundle")


@pytest.mark.parametrize("variant", ["q5", "q4,fp16", "decoder=q5", "tower=q4", ""])
def test_an_unknown_variant_is_refused(variant: str, folder: Path, tmp_path: Path) -> None:
    if variant:
        with pytest.raises(ExportError, match="--variant"):
            export_ready(folder, tmp_path / "bundle", variant)
    with pytest.raises(ExportError, match="is no folder"):
        export_ready(folder / "absent", tmp_path / "bundle")


def test_graphs_are_taken_as_they_are(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mllm", str(tmp_path / "out"), "--onnx", str(folder), "--precision", "int4"]) == 2
    assert "leave --precision" in capsys.readouterr().err
    assert main(["mllm", str(tmp_path / "out"), "--model", str(folder), "--variant", "q4"]) == 2
    assert "give it with --onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'a' * 10**9 }}", "multiplies texts or raises to a power"),
        ("{{ 9 ** 9 ** 9 }}", "multiplies texts or raises to a power"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}0123456789{% endfor %}{% endfor %}", "never ends"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{% include 'secret' %}", "no loader"),
    ],
)
def test_a_template_cannot_leave_its_box(template: str, why: str, folder: Path) -> None:
    rewrite("tokenizer_config.json", chat_template=template)(folder)
    with pytest.raises(Exception, match=why):
        FileTokenizer(folder).apply_chat_template([{"role": "user", "content": "a"}])
    with pytest.raises(ExportError):
        read_folder(folder)


def test_a_token_that_is_null_is_not_written(folder: Path) -> None:
    template = "{{ bos_token }}{% if bos_token is defined %}there{% endif %}{{ messages[0].content }}"
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template, "bos_token": None}))
    assert FileTokenizer(folder).apply_chat_template([{"role": "user", "content": "a"}]) == "a"


def test_a_token_that_ends_answers_must_be_one_of_the_decoders(folder: Path, tmp_path: Path) -> None:
    rewrite("generation_config.json", eos_token_id=1_000_000)(folder)
    with pytest.raises(ExportError, match="names token 1000000"):
        export_ready(folder, tmp_path / "out", None)


def test_chat_templates_are_found_where_hubs_have_them(folder: Path) -> None:
    template = FileTokenizer(folder).chat_template
    assert template is not None
    rewrite("tokenizer_config.json", chat_template=[{"name": "default", "template": template}])(folder)
    assert FileTokenizer(folder).chat_template == template
    rewrite("tokenizer_config.json", chat_template=None)(folder)
    assert FileTokenizer(folder).chat_template is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert FileTokenizer(folder).chat_template == template
    (folder / "chat_template.jinja").write_text("other")
    assert FileTokenizer(folder).chat_template == "other"


@pytest.mark.parametrize("settings", [{"do_pad": True}, {"image_processor_type": "FastVLMImageProcessor"}], ids=str)
def test_pictures_that_are_padded_to_squares_are_not_cut(
    settings: dict[str, Any], make: Callable[..., Made], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make("fastvlm").folder, tmp_path / "model"))
    rewrite("preprocessor_config.json", **settings)(folder)
    with pytest.raises(ExportError, match="pads pictures to squares"):
        read_folder(folder)
