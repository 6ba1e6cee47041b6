"""Benchmark: reading photographs for training, and what ImageNet's 1.28 million take.

`prepare` writes a set of photographs, or of noise that compresses as they do. Each
reader reads all of it in random order, in batches of images that are decoded and cut to
squares, in a process of its own on one core. The rounds alternate between the readers.
"decoding alone" is OpenCV on JPEGs that are in memory: no reader that uses it is
faster.

- alexvgg_jax: what `train` reads
- grain: the same files and the same decoding
- torch: the same files, decoded with Pillow, as torchvision's folders are
- tf.data: the same images as TFRecords, shuffled in a buffer of 1,000, decoded by
  TensorFlow

Libraries that are not installed are left out. The size of ImageNet is the mean size of
these images times its number. The memory is what a process takes to list a folder of as
many names, and to open a prepared set of as many images, which are empty, with the
order of one epoch.

    pip install grain torch tensorflow
    python experiments/benchmarks/input_speed.py
    python experiments/benchmarks/input_speed.py --data FOLDER --square
"""

import functools
import importlib.metadata
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import tyro
from _records import OUT, Result, origin, table, write
from PIL import Image
from rich.console import Console
from rich.progress import track
from throughput import new_process, process_bytes

from alexvgg_jax.commands.prepare import Prepare
from alexvgg_jax.config import Data
from alexvgg_jax.data import records
from alexvgg_jax.data.decode import decode, fit
from alexvgg_jax.data.folder import File
from alexvgg_jax.data.manifest import Manifest, Settings, Shard
from alexvgg_jax.data.sources import find_encoded, find_source
from alexvgg_jax.errors import InputError, one_line

OURS, LIMIT = "alexvgg_jax", "decoding alone"
OTHERS = {"grain": "grain", "torch": "torch", "tf.data": "tensorflow"}  # packages
IMAGENET = 1_281_167  # training images of ILSVRC-2012
CLASSES = 10  # of the images of noise
BUFFER = 1_000  # images that tf.data shuffles


@dataclass(frozen=True)
class Options:
    data: str = ""  # what `prepare --from` takes; without it, images of noise
    images: int = 3_000  # of noise
    size: int = 256  # pixels: short side
    square: bool = False  # store only the centre square
    batch: int = 128  # images
    rounds: int = 5  # the medians are taken over these
    out: Path = OUT  # folder for input_speed.json and its table


# Reads all images once, in the order of a seed. Yields how many each batch has.
Epoch = Callable[[int], Iterator[int]]


def write_noise(folder: Path, count: int) -> None:
    """Write images whose amplitudes fall with the frequency, as photographs' do.

    They are 500x375, as most of ImageNet, and JPEGs of 256 pixels take 3.6 bits for
    each of these, as 63 photographs of ImageNet do.
    """
    rng, shape = np.random.default_rng(0), (375, 500, 3)
    rows, columns = np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)
    falling = 1 / np.maximum(np.hypot(rows, columns), 1 / 500) ** 1.45
    for i in range(count):
        spectrum = np.fft.rfft2(rng.standard_normal(shape), axes=(0, 1))
        noise = np.fft.irfft2(spectrum * falling[..., None], shape[:2], axes=(0, 1))
        grey = noise.mean(-1, keepdims=True)
        noise = grey + 0.4 * (noise - grey)  # colours of photographs are pale
        image = np.clip(128 + 55 * noise / noise.std(), 0, 255).astype(np.uint8)
        split = "test" if i % 10 == 9 else "train"
        path = folder / split / str(i % CLASSES) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def in_this_package(folder: Path, options: Options) -> Epoch:
    source = find_source(Data(str(folder), options.size), "train")

    def epoch(seed: int) -> Iterator[int]:
        order = np.random.default_rng(seed).permutation(source.count)
        for start in range(0, source.count, options.batch):
            images, _ = source.fetch(order[start : start + options.batch])
            yield len(images)

    return epoch


def decoding_alone(folder: Path, options: Options) -> Epoch:
    encoded = find_encoded(str(folder), "train")
    readers, _ = encoded.read(np.arange(encoded.count))
    jpegs = [np.frombuffer(reader()[0], np.uint8) for reader in readers]

    def epoch(seed: int) -> Iterator[int]:
        for n in np.random.default_rng(seed).permutation(len(jpegs)):
            cv2.imdecode(jpegs[n], cv2.IMREAD_COLOR_RGB)
            yield 1

    return epoch


def shards(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*-train.array_record-*"))]


def parsed(record: bytes) -> tuple[bytes, int]:
    """The JPEG and the label of a record."""
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2.Example  # pyrefly: ignore (generated code)
    features = example.FromString(record).features.feature
    return features["image"].bytes_list.value[0], features["label"].int64_list.value[0]


def in_grain(folder: Path, options: Options) -> Epoch:
    import grain.python as grain

    source = grain.ArrayRecordDataSource(shards(folder))

    def load(record: bytes) -> tuple[np.ndarray, int]:
        jpeg, label = parsed(record)
        return decode(jpeg, "", options.size), label

    def epoch(seed: int) -> Iterator[int]:
        shuffled = grain.MapDataset.source(source).shuffle(seed)
        batches = shuffled.map(load).batch(options.batch)
        for images, _ in batches.to_iter_dataset(grain.ReadOptions(num_threads=1)):
            yield len(images)

    return epoch


def in_torch(folder: Path, options: Options) -> Epoch:
    import torch
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource(shards(folder))

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, n: int) -> tuple[np.ndarray, int]:
            jpeg, label = parsed(source[n])
            image = np.array(Image.open(io.BytesIO(jpeg)).convert("RGB"))
            return np.ascontiguousarray(fit(image, options.size)), label

    def epoch(seed: int) -> Iterator[int]:
        torch.manual_seed(seed)
        batches = torch.utils.data.DataLoader(
            Photographs(), options.batch, shuffle=True
        )
        for images, _ in batches:
            yield len(images)

    return epoch


def in_tensorflow(folder: Path, options: Options) -> Epoch:
    import tensorflow as tf
    from array_record.python.array_record_module import ArrayRecordReader

    path = str(folder / "train.tfrecord")
    with tf.io.TFRecordWriter(path) as file:
        for shard in shards(folder):
            for record in ArrayRecordReader(shard).read_all():
                file.write(record)
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def load(record):
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(example["image"], channels=3)
        size = options.size
        return tf.image.resize_with_crop_or_pad(image, size, size), example["label"]

    def epoch(seed: int) -> Iterator[int]:
        shuffled = tf.data.TFRecordDataset(path).shuffle(BUFFER, seed)
        loaded = shuffled.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        for images, _ in loaded.batch(options.batch).prefetch(2):
            yield len(images)

    return epoch


READERS: dict[str, Callable[[Path, Options], Epoch]] = {
    OURS: in_this_package,
    "grain": in_grain,
    "torch": in_torch,
    "tf.data": in_tensorflow,
    LIMIT: decoding_alone,
}


@functools.cache
def reader(name: str, folder: Path, options: Options) -> Epoch:
    """A reader in a process of its own, which it keeps on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # its threads inherit it
    return READERS[name](folder, options)


def images_a_second(name: str, folder: Path, options: Options, seed: int) -> float:
    """The speed of one epoch."""
    epoch = reader(name, folder, options)
    start = time.perf_counter()
    count = sum(epoch(seed))
    return count / (time.perf_counter() - start)


def measure(folder: Path, options: Options) -> dict[str, list[float]]:
    """The images per second of every installed reader, in each round."""
    names = [
        name
        for name in READERS
        if name not in OTHERS or importlib.util.find_spec(OTHERS[name])
    ]
    processes = {name: new_process() for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in names}
    title, console = "reading", Console(stderr=True)
    for seed in track(range(options.rounds + 1), title, console=console):
        for name, process in processes.items():
            asked = process.submit(images_a_second, name, folder, options, seed)
            speeds[name].append(asked.result())
    for process in processes.values():
        process.shutdown()
    return {name: every[1:] for name, every in speeds.items()}  # the first warms up


# What a set of ImageNet's size takes. Each function has a process of its own.


def listing_bytes() -> int:
    """The memory of the list of a folder."""
    before = process_bytes("VmRSS")
    top = "/data/imagenet/train/n01440764"
    files = [File(f"{top}/n01440764_{i}.JPEG", 10_000 + i) for i in range(IMAGENET)]
    return process_bytes("VmRSS") - before if files else 0


def write_empty(folder: Path) -> None:
    """Write a set of as many images as ImageNet has. All are empty."""
    settings = Settings(256, False, 95, Prepare.shard)
    manifest = Manifest(settings, ("a", "b"), {"train": "empty images"})
    names = records.shard_names("train", IMAGENET, settings)
    record = records.as_record(b"", 0, "")
    for i, name in enumerate(names):
        count = min(settings.shard, IMAGENET - i * settings.shard)
        with records.write_shard(folder / name) as write_record:
            for _ in range(count):
                write_record(record)
        manifest.files[name] = Shard(count, (folder / name).stat().st_size)
    records.write_metadata(folder, manifest)


def opening(small: Path, folder: Path) -> tuple[int, float]:
    """The memory of an opened set and of an epoch's order, and the seconds to open
    it. The small set is opened before, for what all sets need."""
    find_encoded(str(small), "train")
    before, start = process_bytes("VmRSS"), time.perf_counter()
    encoded = find_encoded(str(folder), "train")
    seconds = time.perf_counter() - start
    order = np.random.default_rng(0).permutation(encoded.count)
    encoded.read(order[:128])
    return process_bytes("VmRSS") - before, seconds


def of_imagenet(prepared: Path, folder: Path) -> Result:
    """What ImageNet takes, if its images are as those of the prepared set."""
    count = find_encoded(str(prepared), "train").count
    size = sum(Path(path).stat().st_size for path in shards(prepared)) / count
    folder.mkdir()
    write_empty(folder)
    with new_process() as process:
        listed = process.submit(listing_bytes).result()
    with new_process() as process:
        opened, seconds = process.submit(opening, prepared, folder).result()
    return {
        "bytes an image": size,
        "GB": IMAGENET * size / 1e9,
        "MB to list a folder": listed / 1e6,
        "MB to open the prepared set": opened / 1e6,
        "seconds to open the prepared set": seconds,
    }


def page(result: Result) -> str:
    machine = result["machine"]
    limit = median(result["images a second"][LIMIT])
    rows = [
        [name, result["versions"].get(name, ""), f"{median(speeds):,.0f}"]
        + [f"{min(speeds):,.0f} to {max(speeds):,.0f}", f"{median(speeds) / limit:.0%}"]
        for name, speeds in result["images a second"].items()
    ]
    stored = "squares" if result["square"] else "whole images"
    title = (
        f"Images a second on one core: {result['size']} pixels, {stored}, "
        f"{result['count']:,} images\n{machine['processor']}, OpenCV {result['opencv']}"
    )
    headings = ("reader", "version", "median", "rounds", "of decoding")
    taken = [[name, f"{value:,.1f}"] for name, value in result["imagenet"].items()]
    imagenet = f"{IMAGENET:,} training images, as ImageNet has, if they are like these"
    return "\n".join(
        [table(title, headings, rows), table(imagenet, ("training images", ""), taken)]
    )


def version(name: str) -> str:
    """The version of a library. TensorFlow's package can be tensorflow-cpu."""
    package, *_ = importlib.metadata.packages_distributions()[OTHERS[name]]
    return importlib.metadata.version(package)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if not options.data:
            write_noise(work / "noise", options.images)
        Prepare(
            source=options.data or str(work / "noise"),
            to=work / "prepared",
            size=options.size,
            square=options.square,
            splits=("train",),
        )()
        speeds = measure(work / "prepared", options)
        result = origin("input_speed") | {
            "data": Path(options.data).name or "noise",
            "count": find_encoded(str(work / "prepared"), "train").count,
            "size": options.size,
            "square": options.square,
            "batch": options.batch,
            "opencv": cv2.__version__,
            "versions": {name: version(name) for name in speeds if name in OTHERS},
            "images a second": speeds,
            "imagenet": of_imagenet(work / "prepared", work / "imagenet"),
        }
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
