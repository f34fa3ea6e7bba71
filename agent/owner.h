/*
 * owner.h - who is charged for time on the loop: a request, a websocket, the
 * lifespan, or a task of no request.
 *
 * Plain C, counted references, recycled through a free list: after warm-up a
 * request allocates nothing. It is not a Python object, so that the wrapped
 * send, the coroutine and the record can never form a cycle. Under the GIL.
 */
#ifndef LG_AGENT_OWNER_H
#define LG_AGENT_OWNER_H

#include <stdbool.h>
#include <stdint.h>

#include "../common/lg_layout.h"

struct lg_agent;
struct lg_loop;
struct lg_cumulative;
struct lg_tale;
struct _object;                         /* PyObject */

struct lg_owner {
    struct lg_agent *agent;
    struct lg_owner *next_free;
    struct lg_owner *open_next;         /* in the list of open requests, ... */
    struct lg_owner **open_at;          /* ... the pointer to it there; NULL: not in it */
    struct _object *rules;              /* strong: struct lg_rules of its wrapper, or NULL */
    struct lg_loop *loop;               /* where it started; NULL before the first step */
    uint32_t refs;
    uint32_t epoch;                     /* of the agent: an older one counts nowhere any more */
    int32_t endpoint;                   /* -1: not named yet */
    uint32_t id;                        /* request id, 8 hex digits on the screen */
    uint16_t status;
    uint8_t kind;                       /* enum lg_endpoint_kind */
    uint8_t method;                     /* enum lg_method */
    uint8_t flags;                      /* LG_REQ_* */
    bool response_sent;                 /* the last byte of the body has left */
    bool counted;                       /* in flight, counted in its endpoint */
    bool finished;
    uint8_t answered;                   /* what its answer bears of ours: LG_ANSWER_* */
    uint32_t blocks;                    /* told so far: steps, and its own cumulative events */
    uint32_t mount;                     /* prefix of mounts passed, see route.h */
    uint32_t steps;
    struct _object *scope; /* borrowed of its root coroutine, while that lasts */
    uint64_t start_ns;
    uint64_t response_ns; /* when the last byte left */
    uint64_t on_loop_ns;
    uint64_t longest_step_ns;
    uint64_t blocked_ns; /* of those blocks */
    uint64_t pool_wait_ns;
    /* Steps before the endpoint had a name; charged when it gets one. */
    uint64_t unnamed_ns;
    uint64_t unnamed_cpu_ns;
    uint32_t unnamed_steps;
    uint32_t unnamed_stalls;
    uint32_t unnamed_cumulative; /* events of its own window */
    uint64_t unnamed_block_ns;
    uint64_t unnamed_parts_ns[LG_CAUSE_COUNT];
    uint64_t unnamed_cut_ns; /* steps that count towards its endpoint's window */
    uint32_t unnamed_cuts;
    uint64_t unnamed_cut_parts_ns[LG_CAUSE_COUNT];
    uint64_t waited_step; /* last stall it was counted as waiting for */
    uint64_t waited_ns;
    struct lg_tale *untold; /* stalls that wait for its name, see tell.h */
    struct lg_cumulative *cumulative; /* lazily, with its first step over the minimum */
};

/* Does it belong to the segment that is open now? */
bool lg_owner_is_current(const struct lg_owner *owner);

/* A fresh record with one reference; NULL when memory is out. A request or
 * websocket is in the list of open ones until it is finished or gone. */
struct lg_owner *lg_owner_new(struct lg_agent *agent, enum lg_endpoint_kind kind, uint64_t now_ns);

static inline struct lg_owner *
lg_owner_ref(struct lg_owner *owner)
{
    owner->refs++;
    return owner;
}

/* The last one ends it: a request that was never finished counts as dropped. */
void lg_owner_unref(struct lg_owner *owner);

/* Gives the endpoint its name: counts it in flight there and charges the steps
 * it already made. Does nothing the second time. */
void lg_owner_name(struct lg_owner *owner, uint32_t endpoint, uint64_t now_ns);

/* The wrapped application returned or raised: counts the request, once. */
void lg_owner_finish(struct lg_owner *owner, uint64_t now_ns);

/* Frees the free list; at stop. */
void lg_owner_trim(struct lg_agent *agent);

#endif
