/*
 * tell.h - what the agent tells Python of a stall, on the loop's own thread
 * after it.
 *
 * A listener, one of the process, is called with a dict after each step over
 * its threshold, gap (callbacks), iteration and cumulative window. The stall is
 * taken down where it was charged, with or without the GIL, and told where
 * Python code may run: at the end of the step, under the GIL, or at the entry of
 * the loop's poll, where the GIL is taken for it. One that belongs to a request
 * without a name waits at its owner until that has one, at its end at the latest.
 *
 * The listener's failure is no one else's: what it raises is dropped (the
 * package has logged it), a pending exception is as it was, and it may stop the
 * agent. Its own time is charged to no step and is never told. Not wanted, all
 * of this is one look at a word after a stall, and one at `untold` after a step.
 */
#ifndef LG_AGENT_TELL_H
#define LG_AGENT_TELL_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "watchdog/note.h"

struct lg_agent;
struct lg_loop;
struct lg_owner;
struct lg_tale;

/* The listener, a callable; None removes it. 0, or -1 with TypeError. GIL. */
int lg_tell_set_listener(struct lg_agent *agent, PyObject *listener);

/* Takes a stall down, if anybody listens. `ran` is the endpoint whose step it
 * was, -1 when nothing of ours ran or `owner` has no name yet; `owner` is NULL
 * where nobody's name is waited for. On the loop's thread, with or without the
 * GIL (an owner: with it); no Python code runs. */
void lg_tell_later(struct lg_loop *loop, struct lg_owner *owner, int32_t ran,
                   const struct lg_note *note);

/* The owner has its name, or will never have one: its stalls are told next. */
void lg_tell_named(struct lg_owner *owner);

/* Calls the listener with all that is untold. On the loop's thread, under the
 * GIL. It may run anything: `loop` may be closed afterwards. */
void lg_tell_now(struct lg_loop *loop);

/* The same from within the loop's poll, without the GIL or with it. */
void lg_tell_from_poll(struct lg_loop *loop);

/* Frees what was never told. GIL. */
void lg_tell_drop(struct lg_tale **tales);

#endif
