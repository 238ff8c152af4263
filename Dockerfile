# The page, on a CPU or a GPU.
#   docker build -t seg4diff .                                                                            CPU
#   docker build -t seg4diff --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .             GPU; run it with --gpus all
#   docker run --rm -p 127.0.0.1:7860:7860 -e SEG4DIFF_APP_PASSWORD=<password> seg4diff                   then http://127.0.0.1:7860, user seg4diff
# Behind the name of the image come options of `seg4diff app`, as in: seg4diff --model sd3_medium
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/seg4diff
COPY requirements.lock ./
RUN pip install --no-cache-dir -c requirements.lock torch --index-url ${TORCH_INDEX} --extra-index-url https://pypi.org/simple
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY assets assets
COPY src src
RUN pip install --no-cache-dir -c requirements.lock ".[app]" && useradd --create-home user
USER user
WORKDIR /home/user
EXPOSE 7860
ENTRYPOINT ["seg4diff", "app", "--host", "0.0.0.0"]
