"""SVG to pixels by resvg, in an environment of its own.

``python resvg_peer.py SIZE``, told over stdin a JSON string of SVG a line, answers each with a PNG in base64. It knows
nothing of this project.
"""

import base64
import json
import sys


def main() -> None:
    from resvg_py import svg_to_bytes

    size = int(sys.argv[1])
    for line in sys.stdin:
        png = svg_to_bytes(svg_string=json.loads(line), width=size, height=size, skip_system_fonts=True)
        print(base64.b64encode(bytes(png)).decode())


if __name__ == "__main__":
    main()
