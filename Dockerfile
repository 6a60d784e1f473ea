# This file was never built: no container engine was at hand. Its installation was run in a virtual environment.
#
#   docker build --tag segzoo .                                            # for CPUs
#   docker build --tag segzoo:cuda --build-arg TORCH=cu128 .               # for CUDA GPUs; pytorch.org names the versions
#   docker run --rm --shm-size=2g --volume "$PWD:/data" segzoo predict street.png --model model --output predictions
#   docker run --rm --shm-size=2g --gpus all --volume "$PWD:/data" segzoo:cuda train ...
#
# --shm-size is for the processes that load pictures. `docker stop -t 60` leaves a training the time to save.
FROM python:3.12-slim

# cpu, or a version of CUDA: a folder of PyTorch's index. The wheels of CUDA bring its libraries; the host has the driver.
ARG TORCH=cpu
ARG EXTRAS=plot,onnx,timm,tiff

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/cache/huggingface

RUN python -m pip install torch torchvision --index-url https://download.pytorch.org/whl/${TORCH}

WORKDIR /opt/segzoo
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY kernels ./kernels
RUN python -m pip install ".[${EXTRAS}]"

RUN useradd --create-home --uid 1000 user && mkdir -p /cache/huggingface /data && chown -R user /cache /data
USER 1000
WORKDIR /data
ENTRYPOINT ["segzoo"]
CMD ["--help"]
