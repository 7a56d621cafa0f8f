"""Trains the word head of the embedded detector, over the frozen embedded model.

A sample is a photo, often with cut-outs of other named things pasted in, and some words: names of what is in
it, of what these are kinds of, and words for what is not there. Sample i is a pure function of (seed, i).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, Subset

from samcli.errors import SamcliError
from samcli.geometry import resized_size
from samcli.ground.names import write_thing_names
from samcli.ground.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from samcli.masks import decode_rle
from samcli.models.sam import Sam
from samcli.models.small import SmallEncoder
from samcli.models.words import WORD_SIDE, WordHead
from samcli.records import RLE
from samcli.train.data import Pack, compressed, read_json, read_photo, recolour, unpack
from samcli.train.log import CHECKPOINT, Journal, Report
from samcli.train.loop import Stage, State, TrainConfig, begin_with, begun_with, export, identity, normalise
from samcli.train.names import UNNAMED, choose_names, words_of
from samcli.train.processes import average_gradients, join_processes
from samcli.train.words import Noun, SentenceEncoder, choose_words, described, read_wordnet, reduce
from samcli.weights import DEFAULT_MODEL, NAMES_FILE, load_salient, load_sam

WORDNET = Path("/usr/share/wordnet")  # where Debian's package puts it
IMAGES = 100_000
CONFIG = TrainConfig(
    (Stage(side=WORD_SIDE, images=IMAGES, batch=16),), lr=8e-4, weight_decay=0.04, clip=1.5, warmup=150
)
PACK_WEIGHTS = {"duts": 0.66, "coco-train": 0.22, "coco-person": 0.04, "ccp-clothes": 0.08}
OTHER_WEIGHT = 0.1  # of a pack that is not known here
PASTED_INTO = {"duts", "coco-train", "coco-person"}  # of the packs known; parts of persons would be torn
LEAST_CUTOUT = 2500  # pixels
MOST_CUTOUT = 0.7  # of its photo

WORDS = 4  # asked of each photo
REGIONS = 8  # of a photo, at most, that are compared with all words
OTHER_WORDS = 256  # of the vocabulary, in each batch, that regions are told apart from
TARGET_STRIDE = 4  # pixels; that of the logits
CELL = 16  # pixels; that of the comparison
THERE, ABSENT, UNKNOWN = 1, 0, 2


# What is named, and how


class Terms(NamedTuple):
    """The words of K categories. words: (T,) sorted. names: of each category, places of its own names.

    true: (K, T) bool, what a thing of the category is. unknown: (K, T) bool, what it may be besides: names of
    its kinds.
    """

    words: tuple[str, ...]
    names: tuple[tuple[int, ...], ...]
    true: NDArray[np.bool_]
    unknown: NDArray[np.bool_]


@dataclass(frozen=True)
class NamedPhoto:
    """A photo and its annotated things. categories: a place in `Terms`, -1 for one without a name."""

    path: Path
    objects: tuple[RLE, ...]
    categories: tuple[int, ...]


class NamedPack(NamedTuple):
    name: str
    photos: Sequence[NamedPhoto]
    weight: float
    pasted_into: bool


def read_names(folders: Iterable[Path], nouns: Mapping[str, list[Noun]]) -> tuple[list[NamedPack], Terms]:
    """Read COCO-format folders whose categories may have `synonyms` and `hypernyms`; WordNet says what is
    missing. Raises SamcliError for a missing or malformed file, and where no category has a name.
    """
    packs: list[NamedPack] = []
    kinds: list[tuple[set[str], set[str]]] = []
    for folder in folders:
        file = folder / "annotations.json"
        data = read_json(file)
        places: dict[int, int] = {}
        try:
            for category in data["categories"]:
                if category["name"] == UNNAMED:
                    continue
                places[category["id"]] = len(kinds)
                kinds.append(words_of(category, nouns))
            sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
            found: dict[int, list[tuple[RLE, int]]] = {number: [] for number in sizes}
            for annotation in data["annotations"]:
                number = annotation["image_id"]
                rle = compressed(annotation["segmentation"], sizes[number])
                if rle and not annotation.get("iscrowd"):
                    found[number].append((rle, places.get(annotation["category_id"], -1)))
            photos = [
                NamedPhoto(
                    folder / "images" / image["file_name"],
                    tuple(rle for rle, _ in found[image["id"]]),
                    tuple(place for _, place in found[image["id"]]),
                )
                for image in data["images"]
            ]
        except (KeyError, TypeError) as error:
            raise SamcliError(f"{file} is not a COCO instances file: {error} is missing or wrong") from error
        weight = PACK_WEIGHTS.get(folder.name, OTHER_WEIGHT)
        packs.append(NamedPack(folder.name, photos, weight, folder.name in PASTED_INTO))
    if not kinds:
        raise SamcliError("the training data names nothing: its categories have no names")
    return packs, _terms(kinds)


def _terms(kinds: Sequence[tuple[set[str], set[str]]]) -> Terms:
    words = tuple(sorted(set().union(*(names | above for names, above in kinds))))
    places = {word: i for i, word in enumerate(words)}
    true = np.zeros((len(kinds), len(words)), bool)
    unknown = np.zeros_like(true)
    for row, (names, above) in enumerate(kinds):
        true[row, [places[word] for word in names | above]] = True
        for lower_names, lower_above in kinds:
            if names & lower_above:  # a kind of this one
                unknown[row, [places[word] for word in lower_names | lower_above]] = True
    unknown &= ~true
    return Terms(words, tuple(tuple(places[w] for w in sorted(names)) for names, _ in kinds), true, unknown)


def make_vocabulary(path: Path, terms: Terms, nouns: dict[str, list[Noun]]) -> Vocabulary:
    """The vocabulary with the terms in it, from `path` if it is there, else made and written to it."""
    if path.exists():
        return read_vocabulary(path)
    words = choose_words(nouns, terms.words)
    encode = SentenceEncoder()
    vectors = encode(words) + encode([described(word, nouns) for word in words])
    vocabulary = Vocabulary(tuple(words), reduce(F.normalize(vectors, dim=1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_vocabulary(path, vocabulary)
    return vocabulary


# Samples


@dataclass(frozen=True)
class NamingSamples:
    """How samples are drawn. Shares are probabilities."""

    side: int = WORD_SIDE  # pixels
    crop_share: float = 0.35
    least_crop: float = 0.5  # of the photo's sides
    paste_share: float = 0.5
    most_pasted: int = 4
    pasted: tuple[float, float] = (36.0, 190.0)  # pixels of the longer side
    there_share: float = 0.55  # words of what is there, where anything is
    name_share: float = 0.65  # of these, names rather than kinds
    anything_share: float = 0.1  # words from the whole vocabulary, for what is not there
    even_share: float = 0.65  # photos drawn by how rare their names are; the others evenly


class Asked(NamedTuple):
    """B photos, each asked for Q words, N = B * Q in the photos' order, and R regions of them.

    images: (B, 3, S, S) uint8 RGB, padded. valid: (B, 2) int64, (height, width) of the unpadded part.
    words: (N,) int64, places in the vocabulary. targets: (N, S/4, S/4) float32, the share of each cell that
    what is named covers. kinds: (N,) int64, THERE, ABSENT or UNKNOWN.
    regions: (R, S/16, S/16) float32 shares. photo, category: (R,) int64.
    """

    images: Tensor
    valid: Tensor
    words: Tensor
    targets: Tensor
    kinds: Tensor
    regions: Tensor
    photo: Tensor
    category: Tensor


def _rarity(photos: Sequence[NamedPhoto], terms: Terms) -> NDArray[np.float64]:
    """(K,) how much more often than others things of a category should be seen.

    It goes by how many things bear the commonest of the names, its own or another category's, that are true
    of it: a hundred breeds of dogs are dogs.
    """
    things = np.zeros(len(terms.names))
    for photo in photos:
        for category in photo.categories:
            things[category] += category >= 0
    by_term = things @ terms.true
    names = np.zeros(len(terms.words), bool)
    for own in terms.names:
        names[list(own)] = True
    commonest = np.where(terms.true & names, by_term, 1).max(1)
    rarity: NDArray[np.float64] = 1 / np.sqrt(np.maximum(commonest, 1))
    return rarity


class NamingDataset(Dataset[Asked]):
    """`length` single photos with words; sample i depends on (seed, i) alone."""

    def __init__(
        self,
        packs: Sequence[NamedPack],
        terms: Terms,
        vocabulary: Vocabulary,
        config: NamingSamples,
        *,
        seed: int,
        length: int,
    ) -> None:
        self.terms, self.config, self.seed, self.length = terms, config, seed, length
        self.places = np.array([vocabulary.place(word) for word in terms.words])
        self.vocabulary_size = len(vocabulary.words)
        self.photos = [photo for pack in packs for photo in pack.photos]
        rare = _rarity(self.photos, terms)
        chances, into, at = [], [], 0
        for pack in packs:
            # a photo without any name still shows what is not there
            own = np.array(
                [max((rare[c] for c in p.categories if c >= 0), default=0.03) for p in pack.photos]
            )
            own = own if pack.name == "duts" else np.ones(len(own))
            chances.append(pack.weight * own / own.sum())
            into += [pack.pasted_into] * len(pack.photos)
            at += len(pack.photos)
        by_name = np.concatenate(chances)
        even = config.even_share
        self.chances = even * by_name / by_name.sum() + (1 - even) / at
        self.pasted_into = np.array(into)
        self.cutouts = [
            (photo, i)
            for photo in self.photos
            for i, (rle, category) in enumerate(zip(photo.objects, photo.categories, strict=True))
            if category >= 0 and self._cuttable(photo, rle)
        ]
        weights = np.array([rare[photo.categories[i]] for photo, i in self.cutouts])
        self.cutout_chances = weights / weights.sum() if len(weights) else weights

    def _cuttable(self, photo: NamedPhoto, rle: RLE) -> bool:
        from pycocotools import mask as mask_api

        area = int(mask_api.area(rle))
        return LEAST_CUTOUT <= area <= MOST_CUTOUT * rle["size"][0] * rle["size"][1]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Asked:
        rng = np.random.default_rng((self.seed, index))
        number = int(rng.choice(len(self.photos), p=self.chances))
        image, masks, categories = self._shown(self.photos[number], rng)
        if self.pasted_into[number] and self.cutouts and rng.random() < self.config.paste_share:
            for _ in range(int(rng.integers(1, self.config.most_pasted + 1))):
                chosen = int(rng.choice(len(self.cutouts), p=self.cutout_chances))
                masks, categories = self._paste(image, masks, categories, *self.cutouts[chosen], rng)
        return self._ask(recolour(image, rng), masks, categories, rng)

    def _shown(
        self, photo: NamedPhoto, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]], list[int]]:
        """A photo, or a part of it, resized to the side, maybe mirrored, with what is left of its things."""
        image = read_photo(photo.path)
        masks = [decode_rle(rle) for rle in photo.objects]
        categories = list(photo.categories)
        if rng.random() < self.config.crop_share:
            share = rng.uniform(self.config.least_crop, 1)
            height, width = (int(edge * share) for edge in image.shape[:2])
            y = int(rng.integers(image.shape[0] - height + 1))
            x = int(rng.integers(image.shape[1] - width + 1))
            window = np.s_[y : y + height, x : x + width]
            kept = [i for i, mask in enumerate(masks) if mask[window].sum() > 0.4 * mask.sum()]
            masks, categories = [masks[i][window] for i in kept], [categories[i] for i in kept]
            image = image[window]
        height, width = resized_size((image.shape[0], image.shape[1]), self.config.side)
        picture = Image.fromarray(np.ascontiguousarray(image))
        smaller = max(height, width) < max(image.shape[:2])
        image = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        masks = [_resized(mask, (height, width), smaller) > 0.5 for mask in masks]
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
            masks = [np.ascontiguousarray(mask[:, ::-1]) for mask in masks]
        return image, masks, categories

    def _paste(
        self,
        image: NDArray[np.uint8],
        masks: list[NDArray[np.bool_]],
        categories: list[int],
        photo: NamedPhoto,
        which: int,
        rng: np.random.Generator,
    ) -> tuple[list[NDArray[np.bool_]], list[int]]:
        """Paste a thing of another photo into an image, in place; it hides what is behind it."""
        thing, mask = read_photo(photo.path), decode_rle(photo.objects[which])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        thing, mask = thing[window], mask[window]
        low, high = np.log(self.config.pasted)
        scale = float(np.exp(rng.uniform(low, high))) / max(mask.shape)
        size = max(8, int(mask.shape[0] * scale)), max(8, int(mask.shape[1] * scale))
        thing = np.asarray(_resized(thing, size, scale < 1), np.uint8)
        cover = _resized(mask, size, scale < 1)
        if rng.random() < 0.5:
            thing, cover = thing[:, ::-1], cover[:, ::-1]
        (height, width), (high_, wide) = image.shape[:2], size
        y = int(rng.integers(-high_ // 6, max(1, height - high_ + high_ // 6)))
        x = int(rng.integers(-wide // 6, max(1, width - wide + wide // 6)))
        top, left, bottom, right = max(0, y), max(0, x), min(height, y + high_), min(width, x + wide)
        if bottom - top < 8 or right - left < 8:
            return masks, categories
        part = np.s_[top - y : bottom - y, left - x : right - x]
        place = np.s_[top:bottom, left:right]
        soft = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(cover), (3, 3), 0))[part][..., None]
        image[place] = (thing[part] * soft + image[place] * (1 - soft)).astype(np.uint8)
        new = np.zeros((height, width), bool)
        new[place] = soft[..., 0] > 0.5
        return [*(mask & ~new for mask in masks), new], [*categories, photo.categories[which]]

    def _ask(
        self,
        image: NDArray[np.uint8],
        masks: list[NDArray[np.bool_]],
        categories: list[int],
        rng: np.random.Generator,
    ) -> Asked:
        terms, config, side = self.terms, self.config, self.config.side
        height, width = image.shape[:2]
        shown = np.zeros((side, side, 3), np.uint8)
        shown[:height, :width] = image
        kept = [(m, c) for m, c in zip(masks, categories, strict=True) if c >= 0 and m.sum() > 100]
        there, unknown = np.zeros((2, len(terms.words)), bool)
        for _, category in kept:
            there |= terms.true[category]
            unknown |= terms.unknown[category]
        words, targets, kinds = [], [], []
        for _ in range(WORDS):
            target, draw = np.zeros((side, side), np.float32), rng.random()
            if kept and draw < config.there_share:
                category = kept[int(rng.integers(len(kept)))][1]
                own = terms.names[category] if rng.random() < config.name_share else None
                term = int(rng.choice(own or np.flatnonzero(terms.true[category])))
                for mask, other in kept:
                    if terms.true[other, term]:
                        target[:height, :width][mask] = 1
                words.append(int(self.places[term]))
                kinds.append(THERE)
            elif draw < 1 - config.anything_share:
                term = int(rng.integers(len(terms.words)))
                words.append(int(self.places[term]))
                kinds.append(UNKNOWN if there[term] or unknown[term] else ABSENT)
            else:
                words.append(int(rng.integers(self.vocabulary_size)))
                kinds.append(ABSENT)
            targets.append(_cells(target, TARGET_STRIDE))
        chosen = rng.permutation(len(kept))[:REGIONS]
        regions = []
        for i in chosen:
            padded = np.zeros((side, side), np.float32)
            padded[:height, :width] = kept[i][0]
            regions.append(_cells(padded, CELL))
        grid = side // CELL
        return Asked(
            torch.from_numpy(shown).permute(2, 0, 1)[None],
            torch.tensor([[height, width]]),
            torch.tensor(words),
            torch.from_numpy(np.stack(targets)),
            torch.tensor(kinds),
            torch.from_numpy(np.stack(regions) if regions else np.zeros((0, grid, grid), np.float32)),
            torch.zeros(len(regions), dtype=torch.int64),
            torch.tensor([kept[i][1] for i in chosen], dtype=torch.int64),
        )


def collate(asked: Sequence[Asked]) -> Asked:
    """Join single photos."""
    numbered = [one._replace(photo=one.photo + i) for i, one in enumerate(asked)]
    return Asked(*(torch.cat(parts) for parts in zip(*numbered, strict=True)))


def _resized(
    values: NDArray[np.bool_] | NDArray[np.uint8], size: tuple[int, int], smaller: bool
) -> NDArray[np.float32]:
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(values, np.float32), size[::-1], interpolation=way)
    return np.asarray(resized, np.float32)


def _cells(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    count = len(values) // stride
    means: NDArray[np.float32] = values.reshape(count, stride, count, stride).mean((1, 3))
    return means


# Training


class Weights(NamedTuple):
    """Of the parts of the loss."""

    mask: float = 1.0
    score: float = 2.0
    region: float = 0.1  # of a sum over all words
    cell: float = 2.0


def train_detector(
    data: Path,
    out: Path,
    *,
    config: TrainConfig,
    report: Report,
    note: Callable[[str], None],
    start: Path | None = None,
    wordnet: Path = WORDNET,
) -> Path:
    """Train the word head on the packs in `data`; write `out/detector.safetensors` (EMA weights, fp16) and
    `out/words.safetensors`, its vocabulary, which is taken as it is when it is there, and `out/names.json`,
    what the tagger may say.

    start: a word head to begin with instead of the salient head. Continues from `out/checkpoint.pt`. Returns
    the path. Raises SamcliError for missing data, a missing sentence encoder or WordNet, another run's
    checkpoint, or weights of something else.
    """
    rank, world, device = join_processes(config)
    if rank:
        dist.barrier()  # the first process prepares what the others then find
    folders = unpack(data, out / "data")
    nouns = read_wordnet(wordnet)
    packs, terms = read_names(folders, nouns)
    vocabulary = make_vocabulary(out / "words.safetensors", terms, nouns)
    if world > 1 and not rank:
        dist.barrier()
    samples = NamingSamples(side=config.stages[0].side)
    torch.manual_seed(config.seed)
    sam, _, sha256 = load_sam(DEFAULT_MODEL)
    sam = sam.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
    head = WordHead(word_channels=vocabulary.vectors.shape[1])
    if start is None:
        head.begin_from(sam, load_salient(sha256).head)
    begun = None if start is None else begin_with(head, start)
    about = [Pack(pack.name, (), pack.weight, pack.pasted_into) for pack in packs]
    known = {**identity(config, samples, about, world), "photos": str(sum(len(p.photos) for p in packs))}
    known |= {"words": str(len(vocabulary.words)), "of": sha256, **begun_with(begun)}
    state = State(head.to(device), config, known)
    out.mkdir(parents=True, exist_ok=True)
    state.resume(out / CHECKPOINT)
    journal = Journal(state, None if rank else out, report, tensorboard=config.tensorboard)
    stage = config.stages[0]
    total = stage.steps * stage.batch
    dataset = NamingDataset(packs, terms, vocabulary, samples, seed=config.seed, length=total)
    mine = range(state.step * stage.batch + rank, total, world)
    loader = DataLoader(
        Subset(dataset, mine), stage.batch // world, collate_fn=collate, num_workers=config.workers
    )
    _run(
        state,
        sam,
        loader,
        terms,
        vocabulary,
        dataset.places,
        journal,
        device,
        world,
    )
    journal.end()
    path = out / "detector.safetensors"
    if not rank:
        write_thing_names(out / NAMES_FILE, choose_names(folders, nouns))
        export(
            state.ema, path, {"format": "pt", "model": "words", "of": DEFAULT_MODEL, "weights_sha256": sha256}
        )
        note(f"vocabulary: {len(vocabulary.words)} words")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return path


def _run(
    state: State[WordHead],
    sam: Sam,
    loader: DataLoader[Asked],
    terms: Terms,
    vocabulary: Vocabulary,
    places: NDArray[np.int64],
    journal: Journal,
    device: torch.device,
    world: int,
) -> None:
    config, stage = state.config, state.config.stages[0]
    # on a CPU the fused attention's backward pass costs more than the plain one's
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    vectors = torch.from_numpy(vocabulary.vectors).float().to(device)
    own = vectors[torch.from_numpy(places).to(device)]
    true, unknown = (torch.from_numpy(table).to(device) for table in (terms.true, terms.unknown))
    state.network.train()
    journal.begin(stage)
    for asked in loader:
        asked = Asked(*(t.to(device, non_blocking=True) for t in asked))
        generator = torch.Generator().manual_seed(config.seed + state.step)
        others = torch.randint(len(vectors), (OTHER_WORDS,), generator=generator).to(device)
        for group in state.optimizer.param_groups:
            group["lr"] = state.lr()
        with sdpa_kernel(kernels), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss, reached, apart = naming_loss(
                sam, state.network, asked, vectors, own, vectors[others], true, unknown
            )
        loss.backward()
        if world > 1:
            average_gradients(state.network, world)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_ema()
        journal.add(float(loss.detach()), reached, apart)


def naming_loss(
    sam: Sam,
    head: WordHead,
    asked: Asked,
    vectors: Tensor,
    own: Tensor,
    others: Tensor,
    true: Tensor,
    unknown: Tensor,
    weights: Weights = Weights(),  # noqa: B008 - immutable
) -> tuple[Tensor, float, float]:
    """The loss over a batch, the mean IoU of the words that are there, and how much higher they score than
    those that are not.

    vectors: (V, D) of the vocabulary. own: (T, D) of the terms. others: (O, D). true, unknown: (K, T). Parts:
    masks by cross entropy and a soft IoU; scores by cross entropy with the IoU reached, 0 for what is not
    there; each region's mean of cells against all terms; each cell against the words asked for.
    """
    with torch.no_grad():
        encoder = sam.image_encoder
        assert isinstance(encoder, SmallEncoder)
        features = encoder.stages(normalise(sam, asked.images, asked.valid))
        grid = features.embedding.shape[-2:]
        positions = sam.prompt_encoder.pe_layer((grid[0], grid[1]))[None]
    meanings = head.look(features)
    logits, score, alike = head(meanings, positions, head.words(vectors[asked.words]))
    logits, score, alike = logits.float(), score.float(), alike.float()

    each = len(asked.words) // len(asked.images)
    valid = asked.valid.repeat_interleave(each, 0)
    there, known = asked.kinds == THERE, asked.kinds != UNKNOWN
    inside = _inside(valid, logits.shape[-1], TARGET_STRIDE)
    targets = asked.targets
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * inside
    probability = logits.sigmoid() * inside
    shared = (probability * targets).sum((1, 2))
    union = (probability + targets).sum((1, 2)) - shared
    masks = 2 * entropy.sum((1, 2)) / inside.sum((1, 2)) + 1 - (shared + 1) / (union + 1)
    mask_loss = (masks * there).sum() / there.sum().clamp(min=1)
    found, wanted = (logits > 0) & inside, targets > 0.5
    actual = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1) * there
    score_loss = (F.binary_cross_entropy_with_logits(score, actual, reduction="none") * known).mean()

    small = F.avg_pool2d(targets[:, None], CELL // TARGET_STRIDE)[:, 0]
    cells_inside = _inside(valid, small.shape[-1], CELL) & known[:, None, None]
    cell_loss = F.binary_cross_entropy_with_logits(alike, small, reduction="none") * cells_inside
    cell_loss = cell_loss.sum() / cells_inside.sum().clamp(min=1)

    region_loss = logits.new_zeros(())
    if len(asked.regions):
        shares = asked.regions.flatten(1)
        cells = meanings.cells.float()[asked.photo]
        means = (shares[:, None] @ cells)[:, 0] / shares.sum(1, keepdim=True).clamp(min=0.5)
        meant = head.meant(means)
        against = head.scale[0].exp() * meant @ head.words(torch.cat([own, others])).T + head.bias[0]
        truth = true[asked.category].float()
        parts = (
            F.binary_cross_entropy_with_logits(against[:, : len(own)].float(), truth, reduction="none")
            * ~unknown[asked.category]
        )
        region_loss = (parts.sum(1) + 0.3 * F.softplus(against[:, len(own) :].float()).sum(1)).mean()
    loss = (
        weights.mask * mask_loss
        + weights.score * score_loss
        + weights.region * region_loss
        + weights.cell * cell_loss
    )
    sure = score.detach().sigmoid()
    absent = asked.kinds == ABSENT
    apart = (sure * there).sum() / there.sum().clamp(min=1) - (sure * absent).sum() / absent.sum().clamp(
        min=1
    )
    return loss, float(actual.sum() / there.sum().clamp(min=1)), float(apart)


def _inside(valid: Tensor, cells: int, stride: int) -> Tensor:
    """(N, cells, cells) bool: which cells begin within the unpadded part, (N, 2) height and width."""
    place = torch.arange(cells, device=valid.device) * stride
    return (place < valid[:, :1])[:, :, None] & (place < valid[:, 1:])[:, None, :]
