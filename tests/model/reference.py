"""A second implementation of FocalNet from the paper's equations, in float64 NumPy and SciPy."""

import numpy as np
from scipy import ndimage
from scipy.special import erf


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def layer_norm(x, params):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def depthwise(x, kernel):
    """Correlates `[B, H, W, C]` with kernels `[k, k, 1, C]`, with zero padding, like convolution layers."""
    planes = [
        [ndimage.correlate(x[b, :, :, c], kernel[:, :, 0, c], mode="constant") for c in range(x.shape[3])]
        for b in range(x.shape[0])
    ]
    return np.moveaxis(np.array(planes), 1, -1)


def convolution(x, params, stride, padding):
    kernel = params["kernel"]
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    out = np.empty((x.shape[0], height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("bklc,klcd->bd", window, kernel)
    return out + params["bias"]


def modulation(x, params, config):
    query, context = linear(x, params["query"]), linear(x, params["context"])
    learned = params.get("focal_kernels", {})
    kernels = [learned[level]["kernel"] for level in range(len(learned))]
    if not config.use_depthwise_conv:
        kernels = [np.full((k, k, 1, x.shape[-1]), 1 / k**2) for k in config.kernel_sizes(0)]
    levels = len(kernels)
    gates = linear(x, params["gates"]) if config.use_gates else np.ones((*x.shape[:-1], levels + 1))
    total = 0
    for level in range(levels):
        context = gelu(depthwise(context, kernels[level]))
        total = total + context * gates[..., level : level + 1]
    if config.use_global_level:
        total = total + gelu(context.mean((1, 2), keepdims=True)) * gates[..., levels:]
    if config.normalize_modulator:
        total = total / (levels + 1)
    modulator = linear(total, params["modulator"])
    out = query * modulator if config.use_modulation else query + modulator
    if config.use_postln_in_modulation:
        out = layer_norm(out, params["norm"])
    return linear(out, params["proj"])


def mlp(x, params):
    return linear(gelu(linear(x, params["fc1"])), params["fc2"])


def block(x, params, config):
    gamma1, gamma2 = params.get("gamma1", 1.0), params.get("gamma2", 1.0)
    if config.use_postln:
        x = x + gamma1 * layer_norm(modulation(x, params["modulation"], config), params["norm1"])
        return x + gamma2 * layer_norm(mlp(x, params["mlp"]), params["norm2"])
    x = x + gamma1 * modulation(layer_norm(x, params["norm1"]), params["modulation"], config)
    return x + gamma2 * mlp(layer_norm(x, params["norm2"]), params["mlp"])


def slice_of(stacked, index):
    if isinstance(stacked, dict):
        return {key: slice_of(value, index) for key, value in stacked.items()}
    return stacked[index]


def focalnet(images, params, config):
    """Returns logits `[B, K]` and the features of each stage."""
    stem = (4, 2) if config.use_conv_embed else (config.patch_size, 0)
    down = (2, 1) if config.use_conv_embed else (2, 0)
    embed = params["patch_embed"]
    x = layer_norm(convolution(images, embed["proj"], *stem), embed["norm"])
    features = []
    for stage, depth in enumerate(config.depths):
        stage_params = params["stages"][stage]
        for index in range(depth):
            x = block(x, slice_of(stage_params["blocks"], index), config)
        features.append(x)
        if stage + 1 < len(config.depths):
            embed = stage_params["downsample"]
            x = layer_norm(convolution(x, embed["proj"], *down), embed["norm"])
    pooled = layer_norm(x, params["norm"]).mean((1, 2))
    return linear(pooled, params["head"]), features
