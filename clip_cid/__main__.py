"""``python -m clip_cid`` is ``clip-cid``."""

from clip_cid.app import main

if __name__ == "__main__":
    main()
