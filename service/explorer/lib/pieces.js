/** Many rows as requests that the service admits. Knows no model and no page element. */

const FIRST = 512;
const MOST = 8192;
const QUICK = 500;
const TOO_LARGE = 413;
const BUSY = 429;
const TOO_SLOW = 504;

/**
 * Ask about `count` rows, some at a time, in order. Quick answers make the pieces larger; refusals make them smaller, or wait
 * as the service says.
 *
 * @param {number} count
 * @param {(start: number, stop: number, signal: AbortSignal) => Promise<void>} ask
 * @param {AbortSignal} signal ends the request under way, and the wait.
 * @param {(done: number, wait?: number) => void} told hears how many rows are answered, and how many seconds the service asks to
 *   wait, if it does.
 * @returns {Promise<number>} how many rows are answered: all, unless `signal` is aborted.
 */
export async function inPieces(count, ask, signal, told) {
  let size = FIRST;
  let most = MOST;
  let done = 0;
  while (done < count && !signal.aborted) {
    const stop = Math.min(done + size, count);
    const began = performance.now();
    try {
      await ask(done, stop, signal);
    } catch (error) {
      if (signal.aborted) break;
      if (error.status === BUSY) {
        const wait = error.wait ?? 1;
        told(done, wait);
        await pause(1000 * wait, signal);
      } else if ([TOO_LARGE, TOO_SLOW].includes(error.status) && stop - done > 1) {
        most = Math.floor((stop - done) / 2);
        size = most;
      } else {
        throw error;
      }
      continue;
    }
    done = stop;
    told(done);
    if (performance.now() - began < QUICK) size = Math.min(2 * size, most);
  }
  return done;
}

/** Wait so many milliseconds, or until the signal is aborted. */
function pause(milliseconds, signal) {
  return new Promise((resume) => {
    setTimeout(resume, milliseconds);
    signal.addEventListener("abort", resume);
  });
}
