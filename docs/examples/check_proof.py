"""Check what `gateway receive --prove` printed, without the gateway: check_proof.py PROOF.json KEY.pub"""

import base64
import hashlib
import json
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

proof = json.loads(Path(sys.argv[1]).read_text())
event, record = proof["event"], proof["record"]
stream, payload = event["stream"].encode(), base64.b64decode(event["payload"])
device_ms = -(2**63) if event["device_time_ms"] is None else event["device_time_ms"]
numbers = (event["sequence_num"], event["event_time_ms"], event["ingest_time_ms"], device_ms)
nature = (event["priority"], event["kind"], event["flags"], len(stream), len(payload))
packed = struct.pack(">16sqqqqBBIII", bytes.fromhex(event["event_id"]), *numbers, *nature)
found = hashlib.sha256(b"\0" + packed + stream + payload).digest()
for one, other in proof["path"]:  # before and behind it in each node; an old proof names a side and one
    before, behind = {"left": (other, ""), "right": ("", other)}.get(one, (one, other))
    found = hashlib.sha256(b"\1" + bytes.fromhex(before) + found + bytes.fromhex(behind)).digest()
claims, end = json.loads(record), "-----END PUBLIC KEY-----"
roots = [base64.b64decode(seal["root"]) for seal in claims["seals"] if seal["stream"] == event["stream"]]
if found not in roots:
    sys.exit("the event is not the one that the record seals")
signed, _, signature = record.rpartition(',"signature":"')
for text in Path(sys.argv[2]).read_text().split(end)[:-1]:
    key = load_pem_public_key((text + end).encode())
    if hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16] == claims["key"]:
        break
if "gateway:" in text and f"gateway: {claims['gateway']}\n" not in text:
    sys.exit("the key is that of another gateway")
key.verify(base64.b64decode(signature[:-2]), signed.encode())  # raises InvalidSignature
sys.stdout.write(f"signed by {claims['gateway']} in record {claims['number']}: {payload!r}\n")
