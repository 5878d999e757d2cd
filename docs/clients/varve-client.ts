// Varve from Node 20 or newer, without packages: record() in the request path, flush() from a timer.
import * as fs from "node:fs";
export function varve(url: string, tenant: string, key: string, spool: string, maxBytes = 64 * 2 ** 20) {
  const dropped = spool + ".dropped", sealed = spool + ".sealed", to = `${url}/v1/tenants/${tenant}/events?on_error=skip`;
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" }, rejected: any[] = [];
  let tries = 0, unwritten = 0;
  const read = (path: string): string[] => (fs.existsSync(path) ? fs.readFileSync(path, "utf8") : "").split("\n").map((line) => line.split(/ (.*)/s))
    .filter(([size, text]) => size === String(text?.length)).map(([, text]) => text); // what a crash tore has not the length in front of it
  function write(path: string, texts: string[], end = ".new"): void {
    (end ? fs.writeFileSync : fs.appendFileSync)(path + end, texts.map((text) => `\n${text.length} ${text}\n`).join(""), { mode: 0o600 });
    fs.renameSync(path + end, path);
  }
  function record(event: any): void { // never throws, never waits for the network; the id is there before the first try
    try {
      const text = JSON.stringify({ id: crypto.randomUUID(), ...event }), bytes = Buffer.byteLength(text);
      if (bytes <= 65536 && (fs.statSync(spool, { throwIfNoEntry: false })?.size ?? 0) + bytes <= maxBytes) return write(spool, [text], "");
    } catch {} // no room, or no JSON: counted on disk, as the event that tells of it
    try {
      const now = new Date().toISOString(), first = { id: crypto.randomUUID(), action: "producer.events_dropped", outcome: "failure" };
      const count = JSON.parse(read(dropped)[0] ?? JSON.stringify({ ...first, metadata: { count: 0, since: now } }));
      Object.assign(count.metadata, { count: count.metadata.count + ++unwritten, until: now });
      write(dropped, [JSON.stringify(count)]); unwritten = 0;
    } catch {}
  }
  async function flush(): Promise<number> { // one request; milliseconds to wait before the next, 0 when the log has everything
    if (fs.existsSync(dropped) && !fs.existsSync(sealed)) fs.renameSync(dropped, sealed); // a count on its way stays as it is
    if (fs.existsSync(sealed)) { write(spool, [...read(sealed), ...read(spool)]); fs.rmSync(sealed); }
    const texts = read(spool).slice(0, 60); // 60 events of 64 KiB are under the 4 MiB of a request
    if (!texts.length) return 0;
    const { results, wait }: any = await fetch(to, { method: "POST", redirect: "error", signal: AbortSignal.timeout(10_000), headers, body: `[${texts}]` })
      .then(async (answer) => ({ results: (await answer.json()).results ?? [], wait: 1000 * Number(answer.headers.get("retry-after")) }))
      .catch(() => ({ results: [], wait: 0 })); // no answer: the same ids go again. Redirects are not followed: the key goes to one server
    const done = texts.filter((_, nth) => results[nth] && !results[nth].retryable);
    rejected.push(...texts.map((text, nth) => [text, results[nth]]).filter(([, result]) => result?.retryable === false));
    write(spool, read(spool).filter((text) => !done.includes(text)));
    tries = done.length ? 0 : Math.min(tries + 1, 9);
    return wait + 1 + Math.random() * Math.min(60_000, 200 * 2 ** tries); // exponential, full jitter
  }
  return { record, flush, rejected };
}
