"""An attacker, until SIGINT: `flooder.py PORT SOURCE CONNECTIONS` sends transactions as fast as they are answered.

It writes several requests at once on each connection, and opens another where one is closed. In the end it prints how many
answers it got of each status, as JSON.
"""

import asyncio
import json
import re
import signal
import sys
from collections import Counter

BODY = json.dumps(
    {
        "transaction_id": "flood",
        "amount": 12.5,
        "merchant_category": "grocery",
        "hour": 14,
        "day_of_week": 2,
        "user_age": 41,
        "account_balance": 80.25,
    }
).encode()
REQUEST = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)
AT_ONCE = 8
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Connection(asyncio.Protocol):
    def __init__(self, answered):
        self.answered, self.left, self.lost = answered, 0, asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self._send()

    def _send(self):
        self.left = AT_ONCE
        self.transport.write(REQUEST * AT_ONCE)

    def data_received(self, data):
        # A status line that is cut in two is missed, which only makes this connection wait for its end.
        statuses = STATUS.findall(data)
        self.answered.update(status.decode() for status in statuses)
        self.left -= len(statuses)
        if self.left <= 0:
            self._send()

    def connection_lost(self, _):
        self.lost.set()


async def attack(port, source, answered):
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(answered), "127.0.0.1", port, local_addr=(source, 0)
            )
            await connection.lost.wait()
        except OSError:
            await asyncio.sleep(0.05)


async def main(port, source, connections):
    answered, done = Counter(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, done.set)
    attacks = [asyncio.ensure_future(attack(port, source, answered)) for _ in range(connections)]
    await done.wait()
    for each in attacks:
        each.cancel()
    print(json.dumps(answered))  # noqa: T201 - for the test


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
