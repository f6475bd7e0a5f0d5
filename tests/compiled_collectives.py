"""What travels between eight devices in the programs of a run, by their compiled text; a process of its own, see below.

python tests/compiled_collectives.py         a line of JSON: program -> collective -> bytes of the largest array
"""

import functools
import json
import os
import pathlib
import sys

DEVICES = 8
ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Images a device, side, K; and the many classes of a probe whose moments are dealt.
EACH, SIDE, CLASSES, MANY = 8, 16, 10, 100

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.append(str(ROOT / "experiments" / "benchmarks"))
    sys.path.append(str(ROOT / "experiments"))

    import jax
    import jax.numpy as jnp
    import numpy as np
    import tpu_compiled

    from gpz_jax import parallel
    from gpz_jax.analysis import radius, wide_moments
    from gpz_jax.analysis.views import View
    from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, resolve
    from gpz_jax.data.batches import Pixels
    from gpz_jax.data.flat_rows import FlatRows
    from gpz_jax.inversion import decoder_training, linear
    from gpz_jax.inversion.decoder import decoder_for
    from gpz_jax.inversion.protocol import Edge
    from gpz_jax.taps import tap_shapes
    from gpz_jax.training import classifier, ledger

    def setting():
        mesh = parallel.data_mesh()
        config = Config(
            data=DataConfig(size=SIDE, augment="none"),
            model=ModelConfig(model="cnn", width=8, dtype="float32"),
            training=TrainingConfig(batch_size=EACH * mesh.size, ls=0.3),
        )
        config = resolve(config)
        recipe = classifier.recipe_for(config, CLASSES, tpu_compiled.CHANNELS)
        return tpu_compiled.Setting(config, recipe, mesh, EACH * mesh.size, 1000, SIDE)

    def shape(s, function, *given):
        return s.everywhere(jax.eval_shape(function, *given))

    def widths(s):
        example = jax.ShapeDtypeStruct((2, SIDE, SIDE, tpu_compiled.CHANNELS), np.uint8)
        return {cut: z for cut, z in tap_shapes(s.network, s.state.variables, example).items()}

    def stored(s, of, dtype):
        """Rows that every device has all of."""
        return shape(s, FlatRows.of, jax.ShapeDtypeStruct((s.images, *of), dtype))

    KEY = jax.eval_shape(lambda: jax.random.key(0))

    def row(s):
        """The full ledger, with the gradient of the training batch in two parts."""
        scalar = {kind: jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.float32)}
        many = jax.ShapeDtypeStruct((s.images,), np.int32)
        batch = (many, many, scalar[np.int32], scalar[np.float32], KEY)
        batch = (stored(s, (SIDE, SIDE, 3), np.uint8), *s.everywhere(batch))
        tracked = ledger.Tracked(s.network, s.recipe, True, ("fc",))
        state = s.state._replace(optimiser=())
        return ledger.row_of.lower(state, batch, state, *s.batch_of_bytes, tracked=tracked, mesh=s.mesh)

    def moments(s, classes, dealt=None):
        def of(width):
            if dealt is None:
                return shape(s, lambda: radius.empty(classes, width))
            wide = jax.ShapeDtypeStruct((classes, width), jnp.float32, sharding=wide_moments.place(width, s.mesh))
            return shape(s, lambda: radius.empty(classes, width))._replace(origin=wide, offset=wide)

        return {cut: of(int(np.prod(z))) for cut, z in widths(s).items()}

    def probe(s, classes=CLASSES, dealt=None):
        given = s.state.variables, moments(s, classes, dealt), *s.batch_of_bytes, s.spread(s.batch, dtype=bool)
        return radius._add_batch.lower(s.network, *given, View(), dealt)

    def deviations(s, classes=CLASSES, dealt=None):
        wide = {cut: m.origin for cut, m in moments(s, classes, dealt).items()}
        grand = {cut: m.shape[1:] for cut, m in wide.items()}
        means = {
            "class": wide,
            "grand": s.everywhere({cut: jax.ShapeDtypeStruct(of, jnp.float32) for cut, of in grand.items()}),
            "class_factor": s.everywhere(jax.ShapeDtypeStruct((classes,), jnp.float32)),
            "total_factor": s.everywhere(jax.ShapeDtypeStruct((), jnp.float32)),
        }
        sums = s.everywhere((jax.ShapeDtypeStruct((len(wide), 500), jnp.float32),) * 2)
        group = s.everywhere(jax.ShapeDtypeStruct((s.batch,), jnp.int32))
        given = s.state.variables, sums, means, *s.batch_of_bytes, s.spread(s.batch, dtype=bool), group
        return radius._add_deviations.lower(s.network, *given, View(), dealt)

    def decoder(s, kept):
        z, edge = widths(s)["block_2"], Edge(s.network, "block_2", pixels=Pixels(SIDE))
        made = decoder_for(z, (SIDE, SIDE, 3), width=8)
        init = functools.partial(made.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((2, *z), jnp.float32))

        def fresh(variables):
            optimiser = decoder_training._optimiser(1e-3).init(variables["params"])
            plateau = decoder_training._plateau().init({})
            return decoder_training.State(variables["params"], variables["batch_stats"], optimiser, plateau)

        order = s.everywhere(jax.ShapeDtypeStruct((s.images,), jnp.int32))
        index, key = s.everywhere((jax.ShapeDtypeStruct((), jnp.int32), KEY))
        return decoder_training.attack_step.lower(
            shape(s, fresh, variables), s.state.variables, stored(s, (SIDE, SIDE, 3), np.uint8),
            kept, order, index, key, None,
            edge=edge, decoder=made, batch_size=s.batch, lr=1e-3, mesh=s.mesh,
        )  # fmt: skip

    def gram(s):
        rows, width, pixels = 64, 128, 48
        square, targets, z_mean, x_mean = (
            s.everywhere(jax.ShapeDtypeStruct(of, jnp.float32))
            for of in ((width, width), (width, pixels), (width,), (pixels,))
        )
        z, x = (s.spread(DEVICES, rows, of, dtype=jnp.float32) for of in (width, pixels))
        return linear._accumulate.lower(square, targets, z, x, z_mean, x_mean, s.spread(DEVICES, rows, dtype=bool))

    def largest(text):
        found = {kind: tpu_compiled.sizes_of(text, f"{kind}|{kind}-start") for kind in tpu_compiled.COLLECTIVES}
        return {kind: max(sizes) for kind, sizes in found.items() if sizes}

    s = setting()
    programs = {
        "train": tpu_compiled.PROGRAMS["train"],
        "train, dealt images": tpu_compiled.PROGRAMS["dealt"],
        "ledger": row,
        "probe": probe,
        "deviations": deviations,
        "dealt probe": lambda s: probe(s, MANY, s.mesh),
        "dealt deviations": lambda s: deviations(s, MANY, s.mesh),
        "decoder, z kept": lambda s: decoder(s, stored(s, widths(s)["block_2"], np.float32)),
        "decoder, z asked": lambda s: decoder(s, None),
        "linear": gram,
    }
    with jax.numpy_dtype_promotion("standard"):  # inside optax
        said = {name: largest(lower(s).compile().as_text()) for name, lower in programs.items()}
    said["widths"] = {cut: int(np.prod(z)) for cut, z in widths(s).items()}
    print(json.dumps(said))
