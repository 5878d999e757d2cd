"""Varve from Python 3.8 and its standard library: record() in the request path, flush() in a thread of its own."""
import contextlib, http.client, json, os, random, threading, time, urllib.parse, uuid
class Varve:
    def __init__(self, url, tenant, key, spool, max_bytes=64 << 20):
        self.to, self.path, self.key = urllib.parse.urlsplit(url), f"/v1/tenants/{tenant}/events?on_error=skip", key
        self.spool, self.dropped, self.sealed, self.max_bytes = spool, spool + ".dropped", spool + ".sealed", max_bytes
        self.lock, self.tries, self.unwritten, self.rejected = threading.Lock(), 0, 0, []
    def read(self, path):  # each line has its length in front: what a crash tore is passed over
        lines = open(path).read().split("\n") if os.path.exists(path) else []
        return [text for size, _, text in (line.partition(" ") for line in lines) if size == str(len(text))]
    def write(self, path, texts, end=".new"):
        with open(path + end, "w" if end else "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.writelines(f"\n{len(text)} {text}\n" for text in texts)
        os.replace(path + end, path)
    def record(self, event):  # never raises, never waits for the network; the id is there before the first try
        with self.lock, contextlib.suppress(OSError, TypeError, ValueError):
            text, size = json.dumps({"id": str(uuid.uuid4()), **event}), sum(map(os.path.getsize, filter(os.path.exists, [self.spool])))
            if len(text) <= 65536 and size + len(text) <= self.max_bytes: return self.write(self.spool, [text], end="")
        with self.lock, contextlib.suppress(OSError):  # no room: counted on disk, as the event that tells of it
            self.unwritten, now = self.unwritten + 1, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            new = {"id": str(uuid.uuid4()), "action": "producer.events_dropped", "outcome": "failure", "metadata": {"count": 0, "since": now}}
            new = json.loads((self.read(self.dropped) or [json.dumps(new)])[0])
            new["metadata"].update(count=new["metadata"]["count"] + self.unwritten, until=now)
            self.unwritten = self.write(self.dropped, [json.dumps(new)]) or 0
    def flush(self):  # one request; the seconds to wait before the next, 0 when the log has everything
        with self.lock:  # a count that is on its way stays as it is: what is dropped meanwhile is counted anew
            if os.path.exists(self.dropped) and not os.path.exists(self.sealed): os.replace(self.dropped, self.sealed)
            if os.path.exists(self.sealed): self.write(self.spool, self.read(self.sealed) + self.read(self.spool)); os.remove(self.sealed)
            texts, results, wait = self.read(self.spool)[:60], [], 0  # 60 of 64 KiB are under the 4 MiB of a request
        if not texts: return 0
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):  # no answer: the same ids go again
            link = (http.client.HTTPSConnection if self.to.scheme == "https" else http.client.HTTPConnection)(self.to.netloc, timeout=10)
            link.request("POST", self.path, "[" + ",".join(texts) + "]", {"Authorization": "Bearer " + self.key, "Content-Type": "application/json"})
            answer = link.getresponse()  # redirects are not followed: the key goes to one server
            wait, results = int(answer.headers.get("Retry-After", 0)), json.loads(answer.read())["results"]
        done = {text for text, result in zip(texts, results) if not result.get("retryable")}
        self.rejected += [(text, result) for text, result in zip(texts, results) if result.get("retryable") is False]
        with self.lock: self.write(self.spool, [text for text in self.read(self.spool) if text not in done])
        self.tries = 0 if done else min(self.tries + 1, 9)
        return wait + random.uniform(0.001, min(60, 0.2 * 2 ** self.tries))  # exponential, full jitter
