# GPUs: docker run --gpus all ...   without one the same image trains on the processor
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash trainer
USER trainer
WORKDIR /home/trainer/lit_g2rpo

ENV PATH=/home/trainer/venv/bin:$PATH PYTHONUNBUFFERED=1
# torch first: the layer is large and changes with the pin alone
RUN python3 -m venv /home/trainer/venv && pip install --no-cache-dir torch==2.13.0

COPY --chown=trainer:trainer . .
RUN pip install --no-cache-dir -e .

# results: -v $PWD/runs:/home/trainer/lit_g2rpo/runs
VOLUME /home/trainer/lit_g2rpo/runs
CMD ["python", "-m", "lit_g2rpo", "fit", "--config", "configs/g2rpo.yaml"]
