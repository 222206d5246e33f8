# batchrec with everything that its constraints pin, for CPU or for an NVIDIA GPU:
#
#     docker build --tag batchrec:cpu .
#     docker build --tag batchrec:gpu --build-arg DEVICE=gpu .
#
# Both start from the same image: the CUDA libraries come as Python packages, the driver from the host.
FROM python:3.12-slim-bookworm

ARG DEVICE=cpu

# Read by NVIDIA's container runtime; without it nobody reads them.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN groupadd --gid 10001 batchrec && \
    useradd --uid 10001 --gid batchrec --no-create-home --home-dir /tmp batchrec

WORKDIR /src
COPY constraints/ constraints/
COPY pyproject.toml README.md LICENSE ./
COPY batchrec/ batchrec/
RUN pip install --no-cache-dir --constraint constraints/${DEVICE}-py312.txt ".[${DEVICE},redis,s3]"

COPY jobs/nightly.sh /usr/local/bin/

# job.toml, feature_repo, bundles and output are mounted here.
WORKDIR /srv/batchrec
USER 10001:10001
CMD ["nightly.sh"]
