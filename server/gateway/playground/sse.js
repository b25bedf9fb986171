// Server-sent events from a response's body.

/** The data of every event, as they complete; a stream that just ends has no last half event. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let tail = '';
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (tail + value).split('\n');
    tail = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
      if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
      else if (line === '' && data.length) {
        yield data.join('\n');
        data = [];
      }
    }
  }
}
