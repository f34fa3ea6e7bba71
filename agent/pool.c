/*
 * pool.c - calls of the thread pool, and the threads that run them.
 *
 * Counters, records and the free list are touched under the GIL only, by the
 * loop thread that submits and by the pool thread that runs. The table of
 * threads is written under the GIL too, but the watchdog reads it without:
 * `since_ns` of an entry is its sequence word, see begin_entry().
 */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_hist.h"
#include "agent.h"
#include "pycompat.h"
#include "watchdog/sample.h"

#define THREADS 128u                    /* a power of two; anyio's default is 40 */
#define FREE_CALLS 64
#define WAIT_TOLD_NS LG_NS_PER_MS
#define STUCK_NS LG_NS_PER_S

/* One thread and the call that it runs. All but since_ns stand still while
 * since_ns is the same number and not 0. */
struct entry {
    uint64_t since_ns;                  /* 0: runs nothing of ours */
    uint64_t pthread_id;                /* 0: never used */
    uint64_t tid;
    uint64_t endpoint;
    uint64_t tstate;
    uint64_t tstate_id;                 /* a new thread may have the old one's addresses */
    struct lg_owner *owner;             /* borrowed from the call; for the thread itself only */
};

struct lg_pool_room {
    struct lg_agent *agent;
    uint64_t id;                        /* of this life of the segment */
    struct entry thread[THREADS];
};

/* The callable that anyio's thread calls instead of the function. */
struct call {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *func;
    PyObject *ended;                    /* weak reference to who awaits it, while waiting */
    struct lg_agent *agent;
    struct lg_owner *owner;             /* counted reference; NULL: nobody's, or done */
    uint64_t room;                      /* id of the room that counted it */
    uint64_t submit_ns;
    bool limited;                       /* takes one of the pool's tokens */
    bool waiting;                       /* submitted, not started */
};

struct run {
    struct lg_pool_room *room;          /* NULL: not measured */
    struct entry *entry;                /* NULL: the table is full */
    struct entry outer;                 /* what the thread ran before: calls may nest */
    uint64_t room_id;
    uint64_t start_ns;
    uint64_t wait_ns;
    uint64_t busy;
    uint32_t endpoint;
};

static PyObject *call_run(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);
static PyObject *call_no_longer_awaited(PyObject *op, PyObject *ref);
static void wait_no_more(struct call *self);
static struct lg_pool_room *room_of(const struct call *self);
static void count_submit(struct lg_pool_room *room, struct call *self, uint64_t limit);
static void begin(struct call *self, struct run *run);
static void end(struct call *self, struct run *run);
static void take_token(struct lg_pool *pool, uint64_t now_ns);
static void end_of_full(struct lg_pool *pool);
static uint32_t endpoint_of(const struct call *self, uint64_t now_ns);
static struct entry *entry_here(struct lg_pool_room *room);
static void begin_entry(struct entry *entry, uint32_t endpoint, uint64_t now_ns);
static void restore_entry(struct entry *entry, const struct entry *outer);
static bool read_entry(const struct entry *entry, struct entry *out);
static void sub_single(uint64_t *word);

/* Memory of dead ones, reused. Under the GIL. */
static struct {
    struct call *slot[FREE_CALLS];
    int count;
} free_calls;

/* ---- life -------------------------------------------------------------- */

int
lg_pool_open(struct lg_agent *agent)
{
    struct lg_pool_room *room = calloc(1, sizeof(*room));
    if (room == NULL) {
        return -ENOMEM;
    }
    room->agent = agent;
    room->id = lg_now_ns();
    agent->pool = room;
    return 0;
}

void
lg_pool_close(struct lg_agent *agent)
{
    free(agent->pool);
    agent->pool = NULL;
}

/* ---- submitting -------------------------------------------------------- */

PyObject *
lg_pool_submit(struct lg_agent *agent, PyObject *func, uint64_t limit)
{
    struct lg_pool_room *room = agent->pool;
    if (room == NULL || agent->state != LG_AGENT_AWAKE || !PyCallable_Check(func)) {
        return Py_NewRef(func);
    }
    PyTypeObject *type = (PyTypeObject *)agent->pool_type;
    struct call *self;
    if (free_calls.count > 0) {
        self = free_calls.slot[--free_calls.count];
        (void)PyObject_Init((PyObject *)self, type);
    }
    else {
        self = PyObject_GC_New(struct call, type);
        if (self == NULL) {
            PyErr_Clear();
            return Py_NewRef(func);
        }
    }
    struct lg_loop *loop = lg_loop_current();
    self->vectorcall = call_run;
    self->func = Py_NewRef(func);
    self->ended = NULL;
    self->agent = agent;
    self->owner = loop != NULL && loop->running != NULL ? lg_owner_ref(loop->running) : NULL;
    count_submit(room, self, limit);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static void
count_submit(struct lg_pool_room *room, struct call *self, uint64_t limit)
{
    struct lg_pool *pool = room->agent->rec.seg.pool;
    self->room = room->id;
    self->submit_ns = lg_now_ns();
    self->waiting = true;
    self->limited = limit != 0;
    lg_add_single(&pool->submitted, 1);
    if (!self->limited) {
        return;
    }
    if (lg_load_relaxed(&pool->limit) != limit) {
        lg_store_relaxed(&pool->limit, limit);
        lg_agent_feature(room->agent, LG_FEATURE_POOL, true, "");
    }
    lg_add_single(&pool->waiting, 1);
    if (lg_load_relaxed(&pool->busy) >= limit) {
        lg_max_single(&pool->waiting_high_water, lg_load_relaxed(&pool->waiting));
    }
}

/* A cancelled call stays in the frames of its traceback as long as anybody keeps
 * the exception, but its coroutine dies at once. Reference cycle while it waits:
 * call, weak reference, callback; begin() or the callback's turn ends it. */
PyObject *
lg_pool_awaited(struct lg_agent *agent, PyObject *op, PyObject *coro)
{
    static PyMethodDef no_longer_awaited = {"no_longer_awaited", call_no_longer_awaited, METH_O,
                                            NULL};
    if ((PyObject *)Py_TYPE(op) == agent->pool_type && PyCoro_CheckExact(coro)) {
        struct call *self = (struct call *)op;
        PyObject *callback = PyCFunction_New(&no_longer_awaited, op);
        if (callback != NULL && self->waiting && self->limited && self->ended == NULL) {
            self->ended = PyWeakref_NewRef(coro, callback);
        }
        Py_XDECREF(callback);
        PyErr_Clear();                  /* no memory: then its frames tell */
    }
    return Py_NewRef(coro);
}

static PyObject *
call_no_longer_awaited(PyObject *op, PyObject *ref)
{
    (void)ref;
    wait_no_more((struct call *)op);
    Py_RETURN_NONE;
}

/* Cancelled before a thread took it. */
static void
wait_no_more(struct call *self)
{
    struct lg_pool_room *room = room_of(self);
    if (self->waiting && self->limited && room != NULL) {
        struct lg_pool *pool = room->agent->rec.seg.pool;
        sub_single(&pool->waiting);
        end_of_full(pool);
    }
    self->waiting = false;
}

/* The room that counted this call, if the agent still lives the same life. */
static struct lg_pool_room *
room_of(const struct call *self)
{
    struct lg_pool_room *room = self->agent->pool;
    return room != NULL && room->id == self->room && self->agent->state == LG_AGENT_AWAKE ? room
                                                                                          : NULL;
}

/* ---- running ----------------------------------------------------------- */

static PyObject *
call_run(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct call *self = (struct call *)op;
    struct run run = {0};
    begin(self, &run);
    PyObject *result = PyObject_Vectorcall(self->func, args, nargsf, kwnames);
    if (run.room != NULL) {
        end(self, &run);
    }
    return result;
}

/* Nothing of Python is called here or in end(): an exception of the function
 * is pending there. */
static void
begin(struct call *self, struct run *run)
{
    *run = (struct run){.room = room_of(self)};
    if (run->room == NULL || !self->waiting) {
        run->room = NULL;               /* stopped since, or called a second time */
        return;
    }
    struct lg_recorder *rec = &self->agent->rec;
    struct lg_pool *pool = rec->seg.pool;
    uint64_t now = lg_now_ns();
    self->waiting = false;
    Py_CLEAR(self->ended);
    run->start_ns = now;
    run->wait_ns = now - self->submit_ns;
    run->endpoint = endpoint_of(self, now);
    if (self->limited) {
        sub_single(&pool->waiting);
        take_token(pool, now);
    }
    run->busy = lg_load_relaxed(&pool->busy);
    lg_add_single(&pool->wait_sum_ns, run->wait_ns);
    lg_max_single(&pool->wait_max_ns, run->wait_ns);
    uint32_t hist = LG_HIST_POOL_WAIT(rec->seg.endpoint_count, rec->seg.loop_count);
    if (!lg_hist_add(&rec->seg.hists[hist], run->wait_ns)) {
        lg_add_single(&rec->seg.self->hist_saturated, 1);
    }
    lg_add_single(&rec->seg.endpoints[run->endpoint].pool_wait_ns, run->wait_ns);
    if (self->owner != NULL) {
        self->owner->pool_wait_ns += run->wait_ns;
    }
    run->entry = entry_here(run->room);
    if (run->entry != NULL) {
        run->outer = *run->entry;
        begin_entry(run->entry, run->endpoint, now);
        run->entry->owner = self->owner;
    }
}

static void
end(struct call *self, struct run *run)
{
    struct lg_owner *owner = self->owner;
    self->owner = NULL;
    if (room_of(self) == run->room) {
        struct lg_recorder *rec = &self->agent->rec;
        struct lg_pool *pool = rec->seg.pool;
        uint64_t now = lg_now_ns();
        uint64_t run_ns = now - run->start_ns;
        if (self->limited) {
            sub_single(&pool->busy);
            end_of_full(pool);
        }
        lg_add_single(&pool->finished, 1);
        lg_add_single(&pool->run_sum_ns, run_ns);
        lg_max_single(&pool->run_max_ns, run_ns);
        lg_add_single(&rec->seg.endpoints[run->endpoint].pool_run_ns, run_ns);
        if (run->wait_ns > WAIT_TOLD_NS) {
            lg_record_push(rec, LG_RING_EVENTS, now, LG_REC_POOL_WAIT, 0, run->endpoint,
                           run->wait_ns, run_ns, run->busy, 0, 0);
        }
        if (run->entry != NULL) {
            restore_entry(run->entry, &run->outer);
            run->entry->owner = run->outer.since_ns != 0 ? run->outer.owner : NULL;
        }
    }
    if (owner != NULL) {
        lg_owner_unref(owner);
    }
}

static void
take_token(struct lg_pool *pool, uint64_t now_ns)
{
    uint64_t busy = lg_load_relaxed(&pool->busy) + 1;
    uint64_t limit = lg_load_relaxed(&pool->limit);
    lg_store_relaxed(&pool->busy, busy);
    lg_max_single(&pool->high_water, busy);
    if (busy >= limit) {
        lg_max_single(&pool->waiting_high_water, lg_load_relaxed(&pool->waiting));
        if (lg_load_relaxed(&pool->full_since_ns) == 0) {
            lg_store_relaxed(&pool->full_since_ns, now_ns);
            lg_add_single(&pool->times_full, 1);
        }
    }
    end_of_full(pool);
}

/* A token on its way to the next who waits leaves the pool full. */
static void
end_of_full(struct lg_pool *pool)
{
    if (lg_load_relaxed(&pool->busy) + lg_load_relaxed(&pool->waiting) <
        lg_load_relaxed(&pool->limit)) {
        lg_store_relaxed(&pool->full_since_ns, 0);
    }
}

static void
sub_single(uint64_t *word)
{
    uint64_t value = lg_load_relaxed(word);
    lg_store_relaxed(word, value > 0 ? value - 1 : 0);
}

/* Whom the call serves: the request, or its background task once the response
 * has left. */
static uint32_t
endpoint_of(const struct call *self, uint64_t now_ns)
{
    const struct lg_owner *owner = self->owner;
    if (owner == NULL || owner->endpoint < 0) {
        return LG_ENDPOINT_OTHER;
    }
    return owner->response_sent
               ? lg_agent_background(self->agent, (uint32_t)owner->endpoint, now_ns)
               : (uint32_t)owner->endpoint;
}

/* ---- threads ----------------------------------------------------------- */

/* The calling thread's entry. Entries are never emptied, so a search may end
 * at the first unused one; those of threads that run nothing may be taken. */
static struct entry *
entry_here(struct lg_pool_room *room)
{
    uint64_t self = (uint64_t)pthread_self();
    uint32_t at = (uint32_t)((self >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    struct entry *idle = NULL;
    for (uint32_t i = 0; i < THREADS; i++) {
        struct entry *e = &room->thread[(at + i) & (THREADS - 1)];
        if (e->pthread_id == self) {
            idle = e;
            break;
        }
        if (idle == NULL && e->since_ns == 0) {
            idle = e;
        }
        if (e->pthread_id == 0) {
            break;
        }
    }
    return idle;
}

struct lg_owner *
lg_pool_owner_here(const struct lg_agent *agent)
{
    struct lg_pool_room *room = agent->pool;
    struct entry *entry = room != NULL ? entry_here(room) : NULL;
    bool serves =
        entry != NULL && entry->since_ns != 0 && entry->pthread_id == (uint64_t)pthread_self();
    return serves ? entry->owner : NULL;
}

/* Partner: read_entry(). */
static void
begin_entry(struct entry *entry, uint32_t endpoint, uint64_t now_ns)
{
    PyThreadState *tstate = PyThreadState_Get();        /* borrowed: this thread's own */
    uint64_t id = PyThreadState_GetID(tstate);
    uint64_t self = (uint64_t)pthread_self();
    lg_store_relaxed(&entry->since_ns, 0);
    /* A reader that sees one of the words below must find since_ns changed
     * when it looks again. */
    lg_fence_release();
    if (entry->tstate_id != id || entry->pthread_id != self) {
        lg_store_relaxed(&entry->pthread_id, self);
        lg_store_relaxed(&entry->tid, (uint64_t)syscall(SYS_gettid));
        lg_store_relaxed(&entry->tstate_id, id);
    }
    lg_store_relaxed(&entry->tstate, (uint64_t)(uintptr_t)tstate);
    lg_store_relaxed(&entry->endpoint, endpoint);
    lg_store_release(&entry->since_ns, now_ns);
}

/* The call is over; what ran before it, if anything, goes on. */
static void
restore_entry(struct entry *entry, const struct entry *outer)
{
    lg_store_relaxed(&entry->since_ns, 0);
    if (outer->since_ns != 0) {
        lg_fence_release();             /* as in begin_entry() */
        lg_store_relaxed(&entry->endpoint, outer->endpoint);
        lg_store_release(&entry->since_ns, outer->since_ns);
    }
}

/* A whole copy of an entry whose thread runs a call; false when it runs none,
 * or began another one meanwhile. Any thread. */
static bool
read_entry(const struct entry *entry, struct entry *out)
{
    /* Pairs with the release store in begin_entry(). */
    out->since_ns = lg_load_acquire(&entry->since_ns);
    if (out->since_ns == 0) {
        return false;
    }
    out->pthread_id = lg_load_relaxed(&entry->pthread_id);
    out->tid = lg_load_relaxed(&entry->tid);
    out->endpoint = lg_load_relaxed(&entry->endpoint);
    out->tstate = lg_load_relaxed(&entry->tstate);
    lg_fence_acquire();                 /* pairs with the release fences */
    return lg_load_relaxed(&entry->since_ns) == out->since_ns;
}

uint32_t
lg_pool_endpoint_of(const struct lg_pool_room *room, uint64_t pthread_id)
{
    for (uint32_t i = 0; room != NULL && i < THREADS; i++) {
        struct entry e;
        if (lg_load_relaxed(&room->thread[i].pthread_id) == pthread_id &&
            read_entry(&room->thread[i], &e) && e.pthread_id == pthread_id) {
            return (uint32_t)e.endpoint;
        }
    }
    return LG_ENDPOINT_OTHER;
}

/* ---- stuck threads ----------------------------------------------------- */

void
lg_pool_watch(struct lg_pool_room *room, struct lg_sampler *sampler, uint64_t now_ns)
{
    struct entry oldest[LG_STUCK_THREADS];
    const struct entry *source[LG_STUCK_THREADS];
    uint32_t count = 0;
    for (uint32_t i = 0; room != NULL && i < THREADS; i++) {
        struct entry e;
        if (!read_entry(&room->thread[i], &e) || e.since_ns + STUCK_NS > now_ns) {
            continue;
        }
        uint32_t at = count < LG_STUCK_THREADS ? count++ : LG_STUCK_THREADS;
        for (; at > 0 && oldest[at - 1].since_ns > e.since_ns; at--) {
            if (at < LG_STUCK_THREADS) {
                oldest[at] = oldest[at - 1];
                source[at] = source[at - 1];
            }
        }
        if (at < LG_STUCK_THREADS) {
            oldest[at] = e;
            source[at] = &room->thread[i];
        }
    }
    struct lg_pool *pool = room != NULL ? room->agent->rec.seg.pool : NULL;
    for (uint32_t i = 0; pool != NULL && i < LG_STUCK_THREADS; i++) {
        uint32_t stack = 0;
        if (i < count) {
            stack =
                lg_sample_thread(sampler, oldest[i].tstate, (uint32_t)oldest[i].endpoint, now_ns);
        }
        /* Still the same call: the stack is its own. */
        bool same = i < count && lg_load_acquire(&source[i]->since_ns) == oldest[i].since_ns;
        lg_store_relaxed(&pool->stuck[i].tid_endpoint, 0);
        if (same) {
            lg_fence_release();         /* pairs with the reader's second look at the pair */
            lg_store_relaxed(&pool->stuck[i].since_ns, oldest[i].since_ns);
            lg_store_relaxed(&pool->stuck[i].stack, stack);
            lg_store_release(&pool->stuck[i].tid_endpoint,
                             LG_PAIR(oldest[i].tid, oldest[i].endpoint));
        }
    }
}

/* ---- type -------------------------------------------------------------- */

static int
call_traverse(struct call *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->func);
    Py_VISIT(self->ended);
    return 0;
}

static int
call_clear(struct call *self)
{
    Py_CLEAR(self->func);
    Py_CLEAR(self->ended);
    return 0;
}

static void
call_dealloc(struct call *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    wait_no_more(self);
    struct lg_owner *owner = self->owner;
    self->owner = NULL;
    (void)call_clear(self);
    if (owner != NULL) {
        lg_owner_unref(owner);
    }
    if (free_calls.count < FREE_CALLS) {
        free_calls.slot[free_calls.count++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

/* To whoever looks it is the function. */
static PyObject *
call_getattro(PyObject *op, PyObject *name)
{
    struct call *self = (struct call *)op;
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && self->func != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(self->func, name);
    }
    return value;
}

static PyObject *
call_repr(struct call *self)
{
    return self->func != NULL ? PyObject_Repr(self->func)
                              : PyUnicode_FromString("<pool call, cleared>");
}

static PyMemberDef call_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct call, func), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct call, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A function whose run in a pool thread is measured.")},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_repr, call_repr},
    {Py_tp_getattro, call_getattro},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, call_members},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "loopguard._agent.PoolCall",
    .basicsize = sizeof(struct call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = call_slots,
};

int
lg_pool_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->pool_type = PyType_FromModuleAndSpec(module, &call_spec, NULL);
    return agent->pool_type == NULL ? -1 : 0;
}
