"""clip-retrieval's ``clip_inference``, in an environment of its own, told over stdin to run again and again.

``python clip_retrieval_peer.py CONFIG CHECKPOINT TARS OUTPUT BATCH_SIZE WORKERS`` loads and warms the model, then
answers each line of stdin with the seconds that one run took, by the clock and of CPU, reading and writing included.
It knows nothing of this project.
"""

import os
import shutil
import sys
import time
from pathlib import Path


def main() -> None:
    config, checkpoint, tars, output, batch_size, workers = sys.argv[1:]
    import open_clip
    from all_clip import load_clip
    from clip_retrieval.clip_inference import clip_inference

    open_clip.add_model_config(Path(config))
    # As its worker asks for it, so that it is loaded and warmed up before the first run.
    model = f"open_clip:{Path(config).stem}/{checkpoint}"
    load_clip(clip_model=model, use_jit=False, warmup_batch_size=int(batch_size), clip_cache_path=None)
    names = sorted(path.stem for path in Path(tars).glob("*.tar"))
    pattern = f"{tars}/{{{','.join(names)}}}.tar" if len(names) > 1 else f"{tars}/{names[0]}.tar"
    print("ready", flush=True)
    for _ in sys.stdin:
        shutil.rmtree(output, ignore_errors=True)
        started, used = time.perf_counter(), sum(os.times()[:4])
        clip_inference(
            input_dataset=pattern,
            output_folder=output,
            input_format="webdataset",
            batch_size=int(batch_size),
            num_prepro_workers=int(workers),
            enable_metadata=True,
            clip_model=model,
            output_partition_count=1,
        )
        # Its logger leaves a line unfinished.
        print(f"\nseconds {time.perf_counter() - started} {sum(os.times()[:4]) - used}", flush=True)


if __name__ == "__main__":
    main()
