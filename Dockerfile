# GPUs: docker run --gpus all --shm-size 8g ...   without a GPU, the same image trains on the CPU
# torch's wheel includes CUDA 13.0, so base is enough; code compiled at run time (DeepSpeed's own Adam, for
# offloading) needs nvcc: docker build --build-arg FLAVOUR=devel
ARG FLAVOUR=base
FROM nvidia/cuda:13.0.1-${FLAVOUR}-ubuntu24.04

# Triton needs the compiler and Python's headers to build its launchers at run time
# Ubuntu keeps only one version of each package, so versions cannot be pinned
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1001 --shell /bin/bash trainer \
    && chmod go+rx /home/trainer \
    && install --directory --owner 1001 /home/trainer/lit_g2rpo /home/trainer/lit_g2rpo/runs
USER 1001
WORKDIR /home/trainer/lit_g2rpo

# HOME and USER work for any user given by --user
ENV PATH=/home/trainer/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=trainer
# torch first, since the layer is large and only changes with the pin
RUN python3 -m venv /home/trainer/venv && pip install --no-cache-dir torch==2.13.0

COPY --chown=1001:1001 . .
RUN pip install --no-cache-dir -e ".[deepspeed,lora]"

# results: -v "$PWD/runs:/home/trainer/lit_g2rpo/runs" --user "$(id -u):$(id -g)"
VOLUME /home/trainer/lit_g2rpo/runs
CMD ["python", "-m", "lit_g2rpo", "fit", "--config", "configs/g2rpo.yaml"]
