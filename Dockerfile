# The package for a CPU, a GPU or a TPU, without data or runs: give it folders of yours.
#
#   docker build -t gpz --build-arg JAX='jax[cuda13]' .          # or jax, jax[tpu]
#   docker run --rm --gpus all -v "$PWD:/work" gpz train --ls 0.3 --data-dir data
#
# SIGTERM (docker stop) saves the step under way; give it the time: docker stop --time 60.
FROM python:3.11-slim
ARG JAX=jax
RUN useradd --create-home user && mkdir /work && chown user /work
COPY pyproject.toml README.md LICENSE /src/
COPY gpz_jax /src/gpz_jax
COPY configs /src/configs
RUN pip install --no-cache-dir "$JAX" /src && rm -rf /src
USER user
WORKDIR /work
ENTRYPOINT ["gpz"]
CMD ["--help"]
