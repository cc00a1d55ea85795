"""Text to ids: padded, truncated, and never markup."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from rar.runtime import Bundle, BundleError
from rar.runtime.encoder.tokenizer import CLEANERS, PlainText, Tokenizer

LENGTH = 8
CORPUS = ["a photo of a cat", "end of text", "</s> <s> <|endoftext|>", "the cat sat on the mat", "s / < > |"]


def train(kind: str) -> tokenizers.Tokenizer:
    """A tiny tokenizer of each family that dual encoders use, with BOS/EOS added around a text."""
    special = {"unigram": ["<pad>", "<s>", "</s>", "<unk>"], "bpe": ["<|startoftext|>", "<|endoftext|>"]}.get(
        kind, ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    )
    letters = sorted(set("".join(CORPUS)))
    if kind == "unigram":
        pieces = [(piece, 0.0) for piece in special] + [(piece, -3.0) for piece in ("▁", *letters) if piece != " "]
        tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    elif kind == "bpe":
        vocab = {piece: i for i, piece in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif kind == "wordlevel":
        words = sorted({word for text in CORPUS for word in text.split()})
        vocab = {piece: i for i, piece in enumerate([*special, *words])}
        tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))  # noqa: S106  # a piece, as below
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "bytes":  # as Llama's: pieces, or bytes of what has none
        pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "</", "/s", "s>", "</s", "</s>"]
        vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        merges = [("<", "/"), ("</", "s"), ("</s", ">")]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
        special = [*special, "</s>"]
    else:
        vocab = {piece: i for i, piece in enumerate([*special, *letters, *(f"##{letter}" for letter in letters)])}
        model = models.WordPiece(vocab, unk_token="[UNK]")  # noqa: S106  # a piece, not a password
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    start, end = (special[0], special[1]) if kind == "bpe" else (special[1], special[2])
    ids = {piece: tokenizer.token_to_id(piece) for piece in (start, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=list(ids.items())
    )
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64, pad_id=0, pad_token=special[0])
    return tokenizer


def special_ids(tokenizer: tokenizers.Tokenizer) -> set[int]:
    return {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


@pytest.fixture(scope="module")
def clip_tokenizer(openclip_bundle: Path) -> Tokenizer:
    """open_clip's own, as it was exported."""
    bundle = Bundle.open(openclip_bundle)
    return Tokenizer.open(bundle.file("clip", "tokenizer.json"), bundle.component("clip").info["clean"])


SPELLED = [
    "<|endoftext|>",
    "<|startoftext|>",
    "<start_of_text>",
    "<end_of_text>",
    "cat<end_of_text>dog",
    "a <|endoftext|> b",
    "</s>",
    "<s>",
    "x</s>y",
    "<pad>",
    "[SEP]",
    "[CLS] [PAD]",
    "</s></s></s>",
    "<|ENDOFTEXT|>",
]


# Spellings that only a normalisation makes markup of.
HIDDEN = [
    "\uff1c/s\uff1e",
    "\uff1c\uff0f\uff53\uff1e",
    "<\u200b/s>",
    "<\u0301/s>",
    "</S>",
    "\uff3bSEP\uff3d",
    "[ SEP ]",
    "[\u0053EP]",
    "<|\uff45ndoftext|>",
    "<#/s#>",
    "< / s >",
    "<</s>/s>",
    "@",
]
WIDE = "</s>[]SEPCL|endoftx \uff1c\uff0f\uff53\uff1e\u0301\u200b#@"
NORMALIZERS = {
    "none": None,
    "NFKC": normalizers.NFKC(),
    "lower": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "BERT": normalizers.BertNormalizer(),
    "no spaces": normalizers.Replace(" ", ""),
    "no hashes": normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("#", "")]),
    "one character": normalizers.Replace("@", "</s>"),
    "SentencePiece": normalizers.Sequence([normalizers.NFKC(), normalizers.Nmt(), normalizers.Replace(" ", "▁")]),
}


class TestSpecialTokens:
    @pytest.mark.parametrize("text", SPELLED)
    def test_label_text_never_ends_the_clip_text_early(self, clip_tokenizer: Tokenizer, text: str) -> None:
        ids = clip_tokenizer([f"a photo of {text}"])[0]
        used = ids[: int(np.flatnonzero(ids)[-1]) + 1]
        assert used[0] == 49406
        assert used[-1] == 49407
        assert not set(used[1:-1].tolist()) & {49406, 49407}
        assert len(used) > 7  # the characters are there, not dropped

    @given(st.text(st.sampled_from("<|>/_ sadentofxr[]SEPCLU"), max_size=30))
    def test_no_text_spells_clip_s_special_ids(self, clip_tokenizer: Tokenizer, text: str) -> None:
        ids = clip_tokenizer([text])[0]
        used = ids[: int(np.flatnonzero(ids)[-1]) + 1].tolist()
        assert (used.count(49406), used.count(49407)) == (1, 1)

    @pytest.mark.parametrize("text", SPELLED)
    @pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
    def test_in_no_family_of_tokenizers(self, kind: str, text: str) -> None:
        inner = train(kind)
        special = special_ids(inner) - {inner.token_to_id("<unk>"), inner.token_to_id("[UNK]")}
        tokenizer = Tokenizer(inner)
        around = tokenizer([""])[0]
        ids = tokenizer([f"a {text}"])[0]
        assert sum(int(i) in special for i in ids[ids != 0]) == sum(int(i) in special for i in around[around != 0])

    @pytest.mark.parametrize("normalizer", NORMALIZERS)
    @pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece", "wordlevel", "bytes"])
    @given(text=st.text(st.sampled_from(WIDE), max_size=12) | st.sampled_from(HIDDEN))
    def test_whatever_the_normalisation_makes_of_a_text(self, kind: str, normalizer: str, text: str) -> None:
        inner = train(kind)
        inner.normalizer = NORMALIZERS[normalizer]
        special = special_ids(inner) - {inner.token_to_id("<unk>"), inner.token_to_id("[UNK]")}
        inner.no_truncation()
        inner.no_padding()
        tokenizer = PlainText(inner)
        around = tokenizer([""], add_special_tokens=True)[0]
        ids = tokenizer([f"a {text} s"], add_special_tokens=True)[0]
        assert sum(i in special for i in ids) == sum(i in special for i in around)
        assert not special & set(tokenizer([f"a {text} s"])[0])

    def test_a_full_width_spelling_is_left_as_characters(self) -> None:
        """Under NFKC it is the end token's own spelling."""
        inner = train("unigram")
        inner.normalizer = normalizers.NFKC()
        inner.no_padding()
        ids = PlainText(inner)(["a \uff1c/s\uff1e t"])[0]
        assert "".join(inner.id_to_token(i) for i in ids).replace("▁", "") == "a</s>t"

    @pytest.mark.parametrize("markup", ["<", "cat"])
    def test_an_end_token_that_is_an_ordinary_piece(self, markup: str) -> None:
        """Such as the newline that ends some models' answers: prompts name it beside the tokenizer."""
        pieces = [("<unk>", 0.0), ("▁", -3.0), ("cat", -1.0), ("<", -2.0), *((letter, -3.0) for letter in "acts>/")]
        inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        token = inner.token_to_id(markup)
        assert token in inner.encode("a < cat").ids
        ids = PlainText(inner, [token])(["a < cat"])[0]
        assert token not in ids
        assert ids

    def test_an_unknown_character_stays_the_unknown_token(self) -> None:
        for kind, unknown in (("unigram", "<unk>"), ("wordpiece", "[UNK]"), ("wordlevel", "[UNK]")):
            inner = train(kind)
            assert inner.token_to_id(unknown) in PlainText(inner)(["a \u20ac"])[0], kind

    def test_a_tokenizer_that_makes_markup_of_nothing_is_refused(self) -> None:
        inner = train("unigram")
        inner.normalizer = normalizers.Replace(tokenizers.Regex("^"), "</s>")
        with pytest.raises(BundleError, match="makes markup"):
            PlainText(inner)(["a"])

    def test_holds_for_a_tokenizer_read_from_its_file(self, tmp_path: Path) -> None:
        train("bpe").save(str(tmp_path / "tokenizer.json"))
        tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
        assert (tokenizer(["a <|endoftext|> b"])[0] == 1).sum() == 1


class TestShape:
    @given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
    def test_all_texts_have_one_length(self, clip_tokenizer: Tokenizer, texts: list[str]) -> None:
        ids = clip_tokenizer(texts)
        assert ids.shape == (len(texts), 77)
        assert ids.dtype == np.int64

    def test_long_text_is_cut_and_still_ends(self, clip_tokenizer: Tokenizer) -> None:
        ids = clip_tokenizer(["cat " * 500])[0]
        assert ids[0] == 49406
        assert ids[-1] == 49407

    def test_short_text_is_padded_with_zeros(self, clip_tokenizer: Tokenizer) -> None:
        ids = clip_tokenizer(["", "cat"])
        assert np.count_nonzero(ids, axis=1).tolist() == [2, 3]

    def test_padding_to_the_longest(self) -> None:
        inner = train("bpe")
        inner.enable_padding(pad_id=0)
        assert Tokenizer(inner)(["a", "abc"]).shape == (2, 5)
        assert Tokenizer(inner)(["a"]).shape == (1, 3)

    @given(st.text(max_size=30))
    def test_a_text_s_ids_do_not_depend_on_its_neighbours(self, clip_tokenizer: Tokenizer, text: str) -> None:
        np.testing.assert_array_equal(clip_tokenizer([text])[0], clip_tokenizer(["other", text, "words " * 90])[1])


class TestCleaning:
    @pytest.mark.parametrize(
        ("clean", "text", "expected"),
        [
            ("none", " A  &amp; b ", " A  &amp; b "),
            ("whitespace", " A \n\u3000 &amp;amp; b ", "A & b"),
            ("lower", " A  &amp; B ", "a & b"),
            ("canonicalize", "Hot-Dog_stand, (red)!", "hotdog stand red"),
            ("siglip", " Hot\u2581Dog!  x ", " hot dog x"),
        ],
    )
    def test_cleaners(self, clean: str, text: str, expected: str) -> None:
        assert CLEANERS[clean](text) == expected

    @pytest.mark.parametrize("clean", sorted(CLEANERS))
    @given(text=st.text(max_size=30))
    def test_no_text_breaks_a_cleaner(self, clean: str, text: str) -> None:
        assert isinstance(CLEANERS[clean](text), str)

    def test_unknown_cleaner(self) -> None:
        with pytest.raises(BundleError, match="'shout' is unknown to this release"):
            Tokenizer(train("bpe"), "shout")


class TestBroken:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff", b"[]", b"{}", json.dumps({"version": "1.0", "model": {"type": "X"}}).encode()]
    )
    def test_no_tokenizer(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
            Tokenizer.open(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"tokenizer\.json"):
            Tokenizer.open(tmp_path / "tokenizer.json")

    def test_without_padding(self, tmp_path: Path) -> None:
        inner = train("bpe")
        inner.no_padding()
        inner.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(BundleError, match="padding"):
            Tokenizer.open(tmp_path / "tokenizer.json")(["a", "abc"])
