"""Class folders of small images, and configs that train and evaluate on them."""

from PIL import Image

from focalnet_jax.programs.config_files import load_config

SMALL = [
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,)",
    "--config.data.source=folder",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.batch_size=8",
    "--config.total_epochs=none",
    "--config.total_steps=1",
    "--config.schedule.warmup_epochs=none",
    "--config.writers=()",
]


def config_of(folder, outputs, *more):
    """Returns the config of a run of one step on class folders, with a classifier of `outputs` outputs."""
    options = [*SMALL, f"--config.data.path={folder}", f"--config.model.num_classes={outputs}", *more]
    return load_config("configs/quickstart.py", options)


def write(folder, names, count=2):
    """Writes class folders with `count` images each into the split `folder`; returns the folder of the splits."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 18), (number, 99, 99)).save(folder / name / f"{number}.png")
    return folder.parent
