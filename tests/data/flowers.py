"""Makes small data sets in the format of tensorflow-datasets."""

import io

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from focalnet_jax.data.prepare.metadata import write_description

NAMES = ["rose", "tulip", "daisy"]


def make_data_set(folder, label, labels, **more):
    """Makes a data set with one grey image per entry of `labels`."""
    folder.mkdir(parents=True)
    form = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3)), **label})
    (key,) = label
    serializer = tfds.core.example_serializer.ExampleSerializer(form.get_serialized_info())
    writer = ArrayRecordWriter(str(folder / "flowers-train.array_record-00000-of-00001"), "group_size:1")
    for number, value in enumerate(labels):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (number, number, number)).save(buffer, "PNG")
        example = {"image": buffer.getvalue(), key: value}
        writer.write(serializer.serialize_example(form.encode_example(example)))
    writer.close()
    write_description(folder, "flowers", "1.0.0", form, {"train": ([len(labels)], 100)})
    return folder
