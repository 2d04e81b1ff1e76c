"""Waits until nothing else runs on this machine, for a minute at most, and prints the share of its cores that others
still take, in percent: scripts/bench puts it into the results, and a figure that was measured beside others says so.
"""

import sys

import psutil

MOST_PERCENT = 5.0
LOOKS, LOOK_SECONDS = 30, 2.0


def wait_until_quiet() -> float:
    for look in range(LOOKS):
        busy = psutil.cpu_percent(interval=LOOK_SECONDS)
        if busy <= MOST_PERCENT:
            break
        if look == 0:
            print(f"kinora: something else takes {busy:.0f} % of this machine; waiting for it", file=sys.stderr)
    else:
        print(f"kinora: it still takes {busy:.0f} %: the figures are marked as measured beside it", file=sys.stderr)
    return float(busy)


if __name__ == "__main__":
    print(wait_until_quiet())
