"""Ready-made ONNX graphs of multimodal LLMs as a bundle's `mllm` component, without PyTorch.

Model hubs hold them in the layout of transformers.js and optimum: `onnx/vision_encoder.onnx`, `onnx/embed_tokens.onnx`
and `onnx/decoder_model_merged.onnx`, each at several precisions that a suffix names, beside `config.json`,
`generation_config.json`, `preprocessor_config.json`, `tokenizer.json` and `tokenizer_config.json`.

There is no original to compare with. A graph of fewer bits is compared with the fp32 one, if that is there; the fp32
one is taken at its word. Either way the bundle stores what ONNX Runtime computes here, and all providers are held to
it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle, exists
from rar.runtime.errors import BundleError, ExportError, ProviderError
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.rank.mllm.decoder import Shape
from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.rank.mllm.rows import RowDecoder
from rar.runtime.rank.mllm.tree import PICTURE, Segment, Tree
from rar.runtime.session import OnnxSession, Session
from rar.runtime.session.checks import LIMITS, Run, narrowed, sampled

from ..encoder.folder import read_config, read_json, read_settings
from ..graphs.checks import store_runs
from ..graphs.variants import VARIANTS
from ..pictures.photos import checked_photos, package_photos
from . import adopt, compare
from .chat import FileTokenizer
from .model import GRAPHS, Form, Piece, Tokens
from .prompt import compare_tokens, prompt_settings, read_prompt
from .template import Template, plain_tokenizer, resolve

# A bundle's graph -> the file's name in such folders, without its suffix.
_FILES: Mapping[str, str] = {"vision": "vision_encoder", "embed": "embed_tokens", "decoder": "decoder_model_merged"}
_PICTURES = 6
# Tokens of the prompt that a bundle's graphs are checked with, and how many of them are in the cache of the step.
_CHECKED_TOKENS, _CHECKED_PAST = 12, 2
_NOTHING = np.empty((0, 0, 0, 0), np.float32)
# From the most bits to the fewest.
_ORDER = ("fp32", "fp16", "int8", "int4")


@dataclass(frozen=True)
class _Family:
    """How models of a family show a picture.

    Attributes:
        around: The processor's text for a picture's placeholder: what stands before and behind its embeddings.
        tile: Whether a picture is one tile of `max_image_size`, as of Idefics3.
        lead: Text between the prompt and an answer; None to read it from the chat template.
        inline: See `template.resolve`.
    """

    around: tuple[str, str] = ("", "")
    tile: bool = False
    lead: str | None = None
    inline: bool = False


_TILED = _Family(("<fake_token_around_image><global-img>", "<fake_token_around_image>"), tile=True)
# Its chat template may write a line's end before every text; the model's answers follow the prompt at once.
_FASTVLM = _Family(lead="")
# model_type of a config -> its family. `llava_qwen2` is what FastVLM's authors call it.
_FAMILIES: Mapping[str, _Family] = {
    "idefics3": _TILED,
    "smolvlm": _TILED,
    "fast_vlm": _FASTVLM,
    "llava_qwen2": _FASTVLM,
    "llava_onevision": _Family(inline=True),
}


@dataclass(frozen=True)
class Folder:
    """What the JSON files of a folder say: all of a prompt but the picture's length.

    Attributes:
        path: The folder.
        graphs: Where its graphs lie.
        kind: A key of `_FAMILIES`.
        preprocess: The picture preparation; transparency is dropped, as transformers.js does.
        tokenizer: The tokenizer without truncation and padding.
        template: The resolved chat template.
        lead: See `Mllm`.
        stop_ids: Tokens that end an answer.
        image_token: The id that stands for a picture.
        context: The longest sequence, in tokens.
    """

    path: Path
    graphs: Path
    kind: str
    preprocess: Preprocess
    tokenizer: tokenizers.Tokenizer
    template: Template
    lead: str
    stop_ids: Sequence[int]
    image_token: int
    context: int

    def graph(self, name: str, variant: str) -> Path:
        """The file of a graph at a variant."""
        return self.graphs / f"{_FILES[name]}{'' if variant == 'fp32' else f'_{variant}'}.onnx"

    def variants(self, name: str) -> list[str]:
        """The variants that a graph is there in."""
        return [variant for variant in VARIANTS if self.graph(name, variant).is_file()]


@dataclass(frozen=True)
class _Chat:
    """What the prompt is made of, see `model.Spoken`."""

    tokenizer: tokenizers.Tokenizer
    template: Sequence[Piece]
    lead: str
    stop_ids: Sequence[int]
    image_token: int
    image_tokens: int
    context: int
    reference_tokens: Tokens
    exemplars: Mapping[str, Sequence[Piece]] | None
    position_dims: int = 1
    image_positions: Mapping[str, Any] | None = None
    whole_picture: bool = False


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """Reads the JSON files of a folder.

    Raises:
        ExportError: One is missing, too large or no JSON, or says what the runtime does not support.
    """
    path = Path(path)
    config, kind = read_config(path, _FAMILIES, _FILES["decoder"])
    family = _FAMILIES[kind]
    tokenizer = FileTokenizer(path)
    image_token, placeholder = _image_token(path, config, tokenizer)
    _check_pads(path, kind)
    around = [family.around[0], placeholder, family.around[1]]
    template = resolve(tokenizer, placeholder, around, inline=family.inline)
    graphs = path / "onnx"
    return Folder(
        path,
        graphs if graphs.is_dir() else path,
        kind,
        read_settings(path / "preprocessor_config.json", _tile(path) if family.tile else None),
        plain_tokenizer(tokenizer),
        template,
        template.lead if family.lead is None else family.lead,
        _stops(path, config, tokenizer),
        image_token,
        _context(path, config),
    )


def _check_pads(path: Path, kind: str) -> None:
    """Refuses a FastVLM whose processor pads pictures to squares: it would be asked about cut ones.

    Raises:
        ExportError: The folder says so.
    """
    if kind not in ("fast_vlm", "llava_qwen2"):
        return
    settings = read_json(path / "preprocessor_config.json")
    if settings.get("do_pad") is True or settings.get("image_processor_type") == "FastVLMImageProcessor":
        raise ExportError(
            f"{path / 'preprocessor_config.json'}: pads pictures to squares, --onnx does not; export it by --model"
        )


def read_variants(text: str | None) -> dict[str, str]:
    """Reads `--variant`: one for all three graphs, or `vision=q4,embed=fp16,decoder=q4`, where fp32 is left out.

    Raises:
        ExportError: It names another variant or graph.
    """
    chosen = dict.fromkeys(GRAPHS, "fp32")
    for part in (text or "fp32").split(","):
        name, mark, variant = part.rpartition("=")
        if variant not in VARIANTS or (mark and name not in GRAPHS) or (not mark and part != text and text is not None):
            raise ExportError(
                f"--variant {text!r:.80}: {part!r:.40} is none; give one of {', '.join(VARIANTS)}, or one a graph: "
                "vision=q4,embed=fp16,decoder=q4"
            )
        chosen.update({name: variant} if mark else dict.fromkeys(GRAPHS, variant))
    return chosen


def export_ready(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], variant: str | None = None
) -> dict[str, Any]:
    """Writes ready-made graphs into a new or existing bundle.

    Args:
        folder: See the module.
        out: The bundle's folder; must not hold an MLLM yet.
        variant: See `read_variants`.

    Returns:
        The manifest's entry.

    Raises:
        ExportError: A file is missing or unlike what a bundle takes, or the graphs are too far from the fp32 ones;
            nothing is left behind.
        BundleError: The folder cannot take a bundle.
    """
    chosen = read_variants(variant)
    if exists(out) and "mllm" in Bundle.open(out).components:
        raise ExportError(f"{out}: holds an MLLM already; name a new folder")
    given = read_folder(folder)
    for name in GRAPHS:
        if chosen[name] not in (there := given.variants(name)):
            raise ExportError(
                f"{given.path}: lacks {given.graph(name, chosen[name]).name} in {given.graphs}; choose a --variant "
                f"that it is there in: {', '.join(there) or 'none'}"
            )
    try:
        return _write(given, out, chosen)
    except (BundleError, ProviderError) as error:
        raise ExportError(f"{given.path}: cannot be run here ({error}); choose another --variant") from error
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); nothing was changed") from error


def _write(given: Folder, out: str | os.PathLike[str], chosen: Mapping[str, str]) -> dict[str, Any]:
    with stage(out, "mllm") as staging:
        # Inside the bundle's folder: a model's fp32 weights may be more than /tmp holds.
        with tempfile.TemporaryDirectory(prefix=".fp32-", dir=staging.folder) as scratch:
            form, sessions = _take(given, chosen, staging.folder)
            graphs = compare.Graphs(**sessions, form=form)
            reference, compared = _reference(given, chosen, graphs, Path(scratch))
            _check_fit(given, graphs, reference)
            prompt, settings, tokens = _prompt(given, reference)
            cases = _cases(given, reference, prompt, _PICTURES if compared else 1)
            held_at = {name: VARIANTS[chosen[name]] for name in GRAPHS}
            logits: dict[str, Any] | None = None
            if compared:
                worst = max((held_at[name] for name in compared), key=_ORDER.index)
                original = f"the fp32 ones, {', '.join(given.graph(name, 'fp32').name for name in compared)}"
                logits = compare.compare(graphs, prompt, cases, worst, original)
            if form.attention == "rows" and not _pads(graphs, prompt, cases[0], held_at):
                form = replace(form, attention="row")
            runs = _runs(given, reference, prompt)
            held = {
                f"{name}.onnx": store_runs(staging.folder, f"{name}.onnx", runs[name], sessions[name], held_at[name])
                for name in GRAPHS
            }
        given.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "prompt.json", settings)
        write_json(staging.folder / "preprocess.json", given.preprocess.to_dict())
        sizes = compare.info(
            replace(form, dim=graphs.embeds(cases[0].ids[:1] * 0, _NOTHING).shape[1], vocab=cases[0].logits.shape[1])
        )
        staging.info.update(
            source=f"ready-made ONNX {given.kind} {given.path}",
            architecture=given.kind,
            precision={name: _precision(chosen[name], staging.folder / f"{name}.onnx") for name in GRAPHS},
            vision_input="pixel_values",
            encoder=None,
            attention=form.attention,
            **sizes,
            parity={"tokens": tokens, "logits": logits},
            held_to={
                f"{name}.onnx": given.graph(name, "fp32" if name in compared else chosen[name]).name for name in GRAPHS
            },
            checks=held,
            adapter=None,
            made_with={name: version(name) for name in ("onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


def _take(given: Folder, chosen: Mapping[str, str], folder: Path) -> tuple[Form, dict[str, Session]]:
    """Writes the chosen graphs in a bundle's form, and opens them."""
    paths = {name: folder / f"{name}.onnx" for name in GRAPHS}
    form = _adopt(given, chosen, paths)
    return form, {name: _open(path) for name, path in paths.items()}


def _adopt(given: Folder, chosen: Mapping[str, str], paths: Mapping[str, Path]) -> Form:
    """Writes graphs in a bundle's form; the decoder's form is that of a graph that was not asked for too."""
    form = Form("pixel_values", 0, 0, 0, 0, 0)
    for name, path in paths.items():
        source = given.graph(name, chosen[name])
        if name == "vision":
            adopt.take_vision(source, path, given.preprocess.size)
        elif name == "embed":
            adopt.take_embed(source, path)
        else:
            form = adopt.take_decoder(source, path)
    return form


def _reference(
    given: Folder, chosen: Mapping[str, str], graphs: compare.Graphs, scratch: Path
) -> tuple[compare.Graphs, list[str]]:
    """The graphs to compare with: the fp32 one where it is another and lies beside; and the names of those."""
    full = dict.fromkeys(GRAPHS, "fp32")
    others = [name for name in GRAPHS if chosen[name] != "fp32" and given.graph(name, "fp32").is_file()]
    paths = {name: scratch / f"{name}.onnx" for name in others}
    form = _adopt(given, full, paths)
    ours, theirs = ((one.layers, one.kv_heads, one.head_dim) for one in (graphs.form, form))
    if "decoder" in others and ours != theirs:
        raise ExportError(
            f"{given.graph('decoder', chosen['decoder'])}: has {ours} layers, heads and width of keys, and "
            f"{given.graph('decoder', 'fp32').name} {theirs}; take graphs of one model"
        )
    opened: dict[str, Any] = {name: _open(path) for name, path in paths.items()}
    return replace(graphs, **opened), others


def _open(path: Path) -> OnnxSession:
    return OnnxSession(path, "cpu", fp16=_is_half(path))


def _is_half(path: Path) -> bool:
    """Whether a graph computes in fp16."""
    model = onnx.load(str(path), load_external_data=False)
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _precision(variant: str, path: Path) -> str:
    """What the manifest says of a graph; it begins with `fp16` where the session must know it."""
    held_at = "fp16" if _is_half(path) else VARIANTS[variant]
    return held_at if held_at == variant else f"{held_at} ({variant})"


def _check_fit(given: Folder, graphs: compare.Graphs, reference: compare.Graphs) -> None:
    """Checks that the graphs are of one model, and those to compare with too: what one gives is what the next takes."""
    pixels = given.preprocess([load_image(path) for path in checked_photos()])
    ids = np.zeros((2, 3), np.int64)
    shapes = []
    for one in (graphs, reference):
        seen, words = (
            np.shape(session.run(inputs)[name])
            for session, inputs, name in (
                (one.vision, {"pixel_values": pixels}, "image_embeds"),
                (one.embed, {"input_ids": ids}, "inputs_embeds"),
            )
        )
        if len(seen) != 3 or seen[0] != len(pixels) or words != (*ids.shape, seen[2]):
            raise ExportError(
                f"{given.path}: its graphs give pictures of the shape {list(seen)} for {len(pixels)} and words of "
                f"{list(words)} for {list(ids.shape)}, which is no row of one width; take graphs of one model"
            )
        logits, _ = one.run(np.zeros((3, seen[2]), np.float32), np.arange(3)[None])
        shapes.append((seen[1:], np.shape(logits)))
        if shapes[0] != shapes[-1] or len(logits) != ids.shape[1]:
            raise ExportError(
                f"{given.path}: its graphs give pictures and logits of the shapes {shapes[0]}, and the fp32 ones of "
                f"{shapes[-1]}; take graphs of one model"
            )


def _prompt(given: Folder, graphs: compare.Graphs) -> tuple[Prompt, dict[str, Any], dict[str, int]]:
    """The prompt format, what is written of it, and how many prompts were compared with the whole text's ids."""
    pixels = given.preprocess([load_image(path) for path in package_photos()[:1]])
    embeds = graphs.vision.run({"pixel_values": pixels})["image_embeds"]
    chat = _Chat(
        tokenizer=given.tokenizer,
        template=given.template.pieces,
        lead=given.lead,
        stop_ids=given.stop_ids,
        image_token=given.image_token,
        image_tokens=embeds.shape[1],
        context=given.context,
        reference_tokens=given.template.tokens,
        exemplars=given.template.exemplars,
    )
    settings = prompt_settings(chat)
    prompt = read_prompt(settings, given.tokenizer)
    return prompt, settings, compare_tokens(chat, prompt)


def _cases(given: Folder, graphs: compare.Graphs, prompt: Prompt, count: int) -> list[compare.Case]:
    """Real prompts with photos, and the logits of the graphs to compare with."""
    cases = []
    for number, path in enumerate(package_photos()[:count]):
        pixels, ids = given.preprocess([load_image(path)]), compare.ids(prompt, number)
        logits, _ = graphs.run(graphs.embeds(ids, pixels), np.arange(len(ids))[None])
        if not np.isfinite(logits).all():
            raise ExportError(f"{given.path}: the decoder gives logits that are no numbers; choose another --variant")
        if max(beyond := [*prompt.stop_ids, *prompt.letters.values()]) >= logits.shape[1]:
            raise ExportError(
                f"{given.path}: eos_token_id or the tokenizer names token {max(beyond)}, the decoder has "
                f"{logits.shape[1]}; download the folder again"
            )
        cases.append(compare.Case(ids, pixels[0], logits, ()))
    return cases


def _pads(graphs: compare.Graphs, prompt: Prompt, case: compare.Case, held_at: Mapping[str, str]) -> bool:
    """Whether rows of several lengths after one cache get what each gets alone."""
    text = case.ids[case.ids != PICTURE].tolist()
    root, tails = text[:4], (text[4:9], text[5:7], text[6:7])
    tree = Tree([Segment(root), *(Segment(tail, 0) for tail in tails)], [(1, 4), (2, 1), (3, 0)])
    form = graphs.form
    found = []
    for padded in (True, False):
        decoder = RowDecoder(
            graphs.embed, graphs.decoder, Shape(form.layers, form.kv_heads, form.head_dim), padded=padded
        )
        try:
            found += list(decoder.logits([], [tree], []))
        except BundleError:
            return False
    together, alone = found
    lengths = np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1)
    # It is the same graph, so hardly anything may differ; but a scale of all activations is another with other rows.
    held = LIMITS["int8" if held_at["decoder"] == "int8" else "fp16"]
    return bool(((together * alone).sum(1) >= held.worst * lengths).all())


def _runs(given: Folder, graphs: compare.Graphs, prompt: Prompt) -> dict[str, list[Run]]:
    """The stored runs of the three graphs; for the decoder a prefill and a step with a cache.

    Only the first and the last layer's keys and values are compared.
    """
    case = compare.ids(prompt, 0)
    ids = case[case != PICTURE][None, :_CHECKED_TOKENS]
    # Not the user's pictures: a bundle is copied to others.
    seen = narrowed({"pixel_values": given.preprocess([load_image(path) for path in checked_photos()[:1]])})
    read = {"input_ids": ids}
    embeds = graphs.embed.run(read)["inputs_embeds"]
    names = graphs.form.names("present")
    kept = ["logits", *dict.fromkeys([*names[:2], *names[-2:]])]

    def run(begin: int, end: int, past: Sequence[compare.Floats]) -> tuple[Run, dict[str, Any]]:
        positions = np.arange(begin, end)[None]
        step = compare.decoder_inputs(graphs.form, np.asarray(embeds[0, begin:end], np.float32), positions, past)
        inputs = narrowed({**step, "logit_positions": np.array([sorted({0, end - begin - 1})])})
        outputs = graphs.decoder.run(inputs)
        return sampled(inputs, {name: outputs[name] for name in kept}), outputs

    prefill, outputs = run(0, ids.shape[1], ())
    past = [outputs[name][:, :, :_CHECKED_PAST] for name in names]
    return {
        "vision": [sampled(seen, graphs.vision.run(seen))],
        "embed": [sampled(read, {"inputs_embeds": embeds})],
        "decoder": [prefill, run(_CHECKED_PAST, _CHECKED_PAST + 1, past)[0]],
    }


def _image_token(path: Path, config: Mapping[str, Any], tokenizer: FileTokenizer) -> tuple[int, str]:
    """The id and the text of a picture's placeholder."""
    number = config.get("image_token_id", config.get("image_token_index"))
    if number is None or (type(number) is int and number < 0):  # LLaVA's authors count pictures below zero
        number = tokenizer.backend_tokenizer.token_to_id("<image>")
    text = tokenizer.backend_tokenizer.id_to_token(number) if type(number) is int and 0 <= number < 1 << 31 else None
    if text is None:
        raise ExportError(
            f"{path}: neither config.json's image_token_id nor tokenizer.json has a picture's token; download both"
        )
    return int(number), str(text)


def _tile(path: Path) -> dict[str, Any]:
    """Settings by which a picture becomes one tile."""
    side = read_json(path / "preprocessor_config.json").get("max_image_size")
    side = side.get("longest_edge") if isinstance(side, dict) else None
    if type(side) is not int:
        raise ExportError(f"{path / 'preprocessor_config.json'}: lacks max_image_size; download it again")
    return {"size": {"height": side, "width": side}, "do_center_crop": False, "do_resize": True}


def _stops(path: Path, config: Mapping[str, Any], tokenizer: FileTokenizer) -> list[int]:
    """Tokens that end an answer."""
    told = read_json(path / "generation_config.json").get("eos_token_id")
    if told is None and tokenizer.eos_token is not None:
        told = tokenizer.backend_tokenizer.token_to_id(tokenizer.eos_token)
    stops = told if isinstance(told, list) else [told]
    if not stops or not all(type(stop) is int and 0 <= stop < 1 << 31 for stop in stops):
        raise ExportError(
            f"{path / 'generation_config.json'}: eos_token_id is {told!r:.40}; it must be one or more tokens"
        )
    return list(stops)


def _context(path: Path, config: Mapping[str, Any]) -> int:
    """The longest sequence, in tokens."""
    told = config.get("text_config")
    length = (told if isinstance(told, dict) and told else config).get("max_position_embeddings")
    if type(length) is not int or not 2 <= length <= 1 << 24:
        raise ExportError(
            f"{path / 'config.json'}: max_position_embeddings must be a number of tokens, not {length!r:.40}"
        )
    return length
