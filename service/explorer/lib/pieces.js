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
 * @param {(start: number, stop: number) => Promise<void>} ask
 * @param {{stopped: () => boolean, told: (done: number, wait?: number) => void}} watch `told` hears how many rows are
 *   answered, and how many seconds the service asks to wait, if it does.
 * @returns {Promise<number>} how many rows are answered: all, unless `stopped`.
 */
export async function inPieces(count, ask, { stopped, told }) {
  let size = FIRST;
  let most = MOST;
  let done = 0;
  while (done < count && !stopped()) {
    const stop = Math.min(done + size, count);
    const began = performance.now();
    try {
      await ask(done, stop);
    } catch (error) {
      if (error.status === BUSY) {
        const wait = error.wait ?? 1;
        told(done, wait);
        await new Promise((resume) => { setTimeout(resume, 1000 * wait); });
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
