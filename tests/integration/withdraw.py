"""Withdraws callers from a queue over AMI; visits.py runs it on the lab machine.

Usage: withdraw.py QUEUE CALLER...
"""

import socket
import sys
from pathlib import Path

queue, callers = sys.argv[1], set(sys.argv[2:])
secret = Path("/etc/asterisk-exporter/ami-secret").read_text().strip()
ami = socket.create_connection(("127.0.0.1", 5038), timeout=5).makefile("rwb")
ami.readline()


def send(**fields):
    ami.write("".join(f"{k}: {v}\r\n" for k, v in fields.items()).encode() + b"\r\n")
    ami.flush()


def receive():
    lines = iter(lambda: ami.readline().decode().strip(), "")
    return dict(line.partition(": ")[::2] for line in lines)


send(Action="Login", Username="exporter", Secret=secret, Events="off")
send(Action="QueueStatus", Queue=queue)
channels = {}
while (event := receive()).get("Event") != "QueueStatusComplete":
    if event.get("CallerIDNum") in callers:
        channels[event["CallerIDNum"]] = event["Channel"]
for channel in channels.values():
    send(Action="QueueWithdrawCaller", Queue=queue, Caller=channel)
    reply = receive()
    assert reply["Response"] == "Success", reply
assert channels.keys() == callers, f"not in {queue}: {callers - channels.keys()}"
