/*
 * note.h - what the loop thread tells the watchdog about a stall that ended.
 *
 * A queue of one producer (the loop thread, with or without the GIL) and one
 * consumer, the watchdog. Without a watchdog stalls are counted, not told: the
 * queue fills and the rest is dropped. The watchdog alone writes STALLS, STACKS and their strings, so
 * the loop thread never waits for a lock and never interns a name in a hurry.
 * A full queue drops the note and counts it.
 */
#ifndef LG_AGENT_NOTE_H
#define LG_AGENT_NOTE_H

#include <stdbool.h>
#include <stdint.h>

#include "../../common/lg_layout.h"
#include "../pystack/pystack.h"

enum lg_note_kind {
    LG_NOTE_STEP,                       /* a step over its threshold ended */
    LG_NOTE_GAP,                        /* untracked callbacks did */
    LG_NOTE_ITERATION,                  /* many short ones together did */
    LG_NOTE_CUMULATIVE,                 /* a window is over its limit, or ended */
    LG_NOTE_WAITED,                     /* who waited behind the stall of `step` */
    LG_NOTE_RENAMED,                    /* the request's endpoint is known now */
};

struct lg_waited_note {
    uint32_t requests;
    uint64_t longest_ns;
    uint64_t sum_ns;
    struct {
        uint32_t endpoint;
        uint32_t requests;
        uint64_t ns;
    } by[LG_WAITED_ENDPOINTS];
};

#define LG_CALL_TEXT 160

struct lg_note {
    enum lg_note_kind kind;
    uint32_t endpoint;
    uint32_t request_id;
    uint32_t task;                      /* LG_TASK_NUMBER_BIT | N, string id, or 0 */
    uint32_t cause;
    uint32_t steps;
    bool blamed_elsewhere;              /* the endpoint is not the one that ran */
    bool finished;                      /* CUMULATIVE: the window has ended */
    uint64_t step;
    uint64_t start_ns;
    uint64_t duration_ns;
    uint64_t threshold_ns;
    uint64_t open_requests;
    uint64_t major_faults;
    uint64_t parts_ns[LG_CAUSE_COUNT];
    uint64_t call_ns;
    char call[LG_CALL_TEXT];            /* "recv fd 11 <- 127.0.0.1:5432" or "" */
    struct lg_pystack_sample stack;     /* taken right after that call; depth 0 = none */
    struct lg_waited_note waited;
};

#define LG_NOTES 16                     /* a power of two */

struct lg_notes {
    uint64_t head;                      /* producer */
    uint64_t tail;                      /* consumer */
    uint64_t dropped;
    struct lg_note *slot;               /* LG_NOTES of them */
};

/* Producer: a slot to fill, or NULL when full (counted). Publish it after. */
struct lg_note *lg_note_begin(struct lg_notes *notes);
void lg_note_publish(struct lg_notes *notes);

/* Consumer: the oldest note or NULL; drop it after use. */
const struct lg_note *lg_note_peek(struct lg_notes *notes);
void lg_note_drop(struct lg_notes *notes);

#endif
