/*
 * loop.c - event loops become known, their polls' edges come in, they end.
 */
#include "loop.h"

#include <frameobject.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "agent.h"
#include "charge.h"
#include "names.h"
#include "pycompat.h"
#include "select.h"
#include "slices/slice.h"
#include "task.h"
#include "tell.h"
#include "threshold.h"

/* What is asked of the loop's Python object, before anything of ours is touched:
 * asking may run Python code, and meanwhile another thread may stop the agent. */
struct facts {
    enum lg_loop_kind kind;
    PyObject *loop;                     /* new references, or NULL */
    PyObject *ready;
    uint64_t hook;
    int poll_fd;
    int member_fd;
};

static struct lg_loop *register_loop(struct lg_agent *agent, struct facts *facts);
static void gather_facts(struct facts *facts, PyObject *py_loop);
static void drop_facts(struct facts *facts);
static void leave_coroutines(struct lg_pystack_sample *base);
static void install_factories(struct lg_agent *agent, struct lg_loop *loop, PyObject *py_loop);
static struct lg_loop *free_slot(struct lg_agent *agent);
static uint64_t slow_ns(uint64_t threshold_ns);
static void take_back_slots(struct lg_agent *agent);
static bool is_thread_alive(pid_t tid);
static uint64_t hook_of(PyThreadState *tstate, PyObject *py_loop);
static bool is_same(const struct lg_loop *loop, PyObject *py_loop);
static PyObject *running_loop(struct lg_agent *agent);
static enum lg_loop_kind kind_of(PyObject *py_loop);
static int descriptor_of(PyObject *py_loop, enum lg_loop_kind kind);
static int wakeup_descriptor(PyObject *py_loop);
static void poll_enter(struct lg_calls *calls, uint64_t now_ns);
static void poll_leave(struct lg_calls *calls, uint64_t now_ns, int n_events);
static bool begin_edge(struct lg_loop *loop);
static void end_edge(struct lg_loop *loop);
static void wait_for_edge(struct lg_loop *loop);
static void wake_up(struct lg_loop *loop, uint64_t now_ns);
static void slow_call(struct lg_calls *calls, const struct lg_call *call);

/* ---- becoming known ---------------------------------------------------- */

struct lg_loop *
lg_loop_here(struct lg_agent *agent)
{
    struct lg_loop *loop = lg_loop_current();
    if (loop != NULL && loop->hook != 0 && lg_loop_runs(loop)) {
        return loop;
    }
    if (agent->state != LG_AGENT_ARMED && agent->state != LG_AGENT_AWAKE) {
        return NULL;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *py_loop = lg_agent_awake(agent) ? running_loop(agent) : NULL;
    if (loop == NULL || !is_same(loop, py_loop)) {
        struct facts facts;
        gather_facts(&facts, py_loop);
        loop = lg_loop_current();
        if (loop != NULL) {
            lg_loop_close(loop);        /* this thread runs another loop now */
        }
        loop = agent->state == LG_AGENT_AWAKE ? register_loop(agent, &facts) : NULL;
        if (loop != NULL) {
            install_factories(agent, loop, py_loop);
        }
        drop_facts(&facts);
    }
    loop = lg_loop_current();           /* or stopped meanwhile */
    Py_XDECREF(py_loop);
    PyErr_Clear();
    lg_pending_restore(&pending);
    return loop;
}

bool
lg_loop_expect(struct lg_agent *agent, PyObject *py_loop)
{
    if (agent->state != LG_AGENT_ARMED && agent->state != LG_AGENT_AWAKE) {
        return false;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    bool known = false;
    if (lg_agent_awake(agent)) {
        lg_task_install(agent, py_loop);
        struct lg_loop *loop = lg_loop_current();   /* the lines above may run Python code */
        known = loop != NULL && is_same(loop, py_loop);
        if (loop != NULL && !known && (loop->hook == 0 || !lg_loop_runs(loop))) {
            lg_loop_close(loop);
        }
    }
    PyErr_Clear();
    lg_pending_restore(&pending);
    return known;
}

static void
gather_facts(struct facts *facts, PyObject *py_loop)
{
    memset(facts, 0, sizeof(*facts));
    facts->kind = kind_of(py_loop);
    facts->poll_fd = descriptor_of(py_loop, facts->kind);
    facts->member_fd = wakeup_descriptor(py_loop);
    if (py_loop != NULL) {
        facts->ready = PyObject_GetAttrString(py_loop, "_ready");
        facts->loop = PyWeakref_NewRef(py_loop, NULL);
        facts->hook = facts->loop != NULL ? hook_of(PyThreadState_Get(), py_loop) : 0;
    }
    PyErr_Clear();
}

static void
drop_facts(struct facts *facts)
{
    Py_CLEAR(facts->ready);
    Py_CLEAR(facts->loop);
}

/* No Python code runs in here: under the GIL it is one piece. */
static struct lg_loop *
register_loop(struct lg_agent *agent, struct facts *facts)
{
    struct lg_loop *loop = free_slot(agent);
    if (loop == NULL) {
        lg_add_single(&agent->rec.seg.self->loop_overflow, 1);
        return NULL;
    }
    uint64_t now = lg_now_ns();
    uint32_t index = (uint32_t)(loop - agent->loops);
    uint64_t step_number = loop->step_number;
    uint64_t iteration = loop->iteration;
    /* The watchdog may be reading notes of the loop that was here before: these
     * three, the slot's own, are never anything else. */
    loop->agent = agent;
    loop->index = index;
    loop->entry = &agent->rec.seg.loops[index];
    memset(&loop->calls, 0, sizeof(loop->calls));
    memset(&loop->used, 0, offsetof(struct lg_loop, notes) - offsetof(struct lg_loop, used));
    loop->step_number = step_number;
    loop->iteration = iteration;
    loop->first_iteration = iteration;
    if (loop->notes.slot == NULL) {
        loop->notes.slot = calloc(LG_NOTES, sizeof(*loop->notes.slot));
    }
    if (loop->threshold == NULL) {
        loop->threshold = lg_threshold_open(&agent->settings);
    }
    lg_calls_init(&loop->calls);
    loop->kind = facts->kind;
    loop->tid = (pid_t)syscall(SYS_gettid);
    loop->has_cpu_clock = pthread_getcpuclockid(pthread_self(), &loop->cpu_clock) == 0;
    loop->threshold_ns = agent->settings.config.threshold_ns;
    loop->lag_hist = &agent->rec.seg.hists[LG_HIST_LAG(agent->rec.seg.endpoint_count, index)];
    loop->tstate = PyThreadState_Get();
    loop->loop = facts->loop;
    loop->ready = facts->ready;
    loop->hook = facts->hook;
    facts->loop = NULL;                 /* handed over */
    facts->ready = NULL;
    if (lg_pystack_thread_here(agent->pystack, &loop->thread) != 0) {
        memset(&loop->thread, 0, sizeof(loop->thread));
    }
    else if (lg_pystack_capture_own(agent->pystack, &loop->thread, &loop->base) != 0) {
        loop->base.depth = 0;
    }
    leave_coroutines(&loop->base);
    char name[64] = "";
    if (pthread_getname_np(pthread_self(), name, sizeof(name)) == 0) {
        loop->thread_name = lg_record_string(&agent->rec, name, strlen(name), LG_TRY);
    }
    lg_meter_open(&loop->meter, loop->tid);
    lg_agent_feature(agent, LG_FEATURE_RUN_DELAY, loop->meter.schedstat_fd >= 0,
                     loop->meter.schedstat_fd >= 0 ? "" : "schedstat cannot be read");

    struct lg_loop_entry *e = loop->entry;
    memset(e, 0, sizeof(*e));
    memset(loop->lag_hist, 0, sizeof(*loop->lag_hist));
    lg_store_relaxed(&e->request_tid, LG_PAIR(0, loop->tid));
    lg_store_relaxed(&e->tasks, LG_NONE);
    lg_store_relaxed(&e->ready_length, LG_NONE);
    lg_store_relaxed(&e->threshold_ns, loop->threshold_ns);
    lg_store_relaxed(&e->created_ns, now);
    lg_store_relaxed(&e->heartbeat_ns, now);
    lg_store_relaxed(&e->kind_thread_name, LG_PAIR(loop->kind, loop->thread_name));
    lg_store_relaxed(&e->awake_since_ns, now);

    loop->calls.poll_fd = facts->poll_fd;
    loop->calls.member_fd = facts->member_fd;
    loop->calls.poll_enter = poll_enter;
    loop->calls.poll_leave = poll_leave;
    loop->calls.slow_call = slow_call;
    loop->calls.slow_ns = slow_ns(loop->threshold_ns);
    loop->has_edges = lg_agent_has_edges(agent);
    /* Without edges it may have been in poll between two steps. */
    loop->gap_threshold_ns =
        loop->has_edges ? agent->settings.config.iteration_threshold_ns : LG_NONE;
    loop->awake_ns = now;
    loop->edge_ns = now;
    lg_calls_attach(&loop->calls);
    /* Pairs with the acquire loads of the watchdog and of readers: the entry is
     * whole before it is seen. */
    lg_store_release(&e->state, LG_LOOP_IDLE);
    lg_store32_release(&loop->used, LG_LOOP_USED);
    if (index >= agent->loops_used) {
        agent->loops_used = index + 1;
        lg_store_release(&agent->rec.seg.tables->loops_used, agent->loops_used);
    }
    lg_record_push(&agent->rec, LG_RING_EVENTS, now, LG_REC_LIFECYCLE, 0, 0, LG_LIFE_LOOP_ADDED, 0,
                   index, 0, 0);
    lg_slice_loop_new(loop);
    return loop;
}

/* The loop is met within a coroutine, most often: that one, and what it called,
 * is no part of the loop's own frames. */
static void
leave_coroutines(struct lg_pystack_sample *base)
{
    uint32_t inside = 0;                /* frames of the coroutine, and those within it */
    uint32_t at = 0;
    PyFrameObject *frame = PyEval_GetFrame();           /* borrowed */
    Py_XINCREF(frame);
    while (frame != NULL && at < base->depth) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        at++;
        if (code->co_flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR)) {
            inside = at;
        }
        Py_DECREF(code);
        PyFrameObject *outer = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = outer;
    }
    Py_XDECREF(frame);
    base->depth -= inside;
    memmove(base->frames, base->frames + inside, base->depth * sizeof(base->frames[0]));
}

static void
install_factories(struct lg_agent *agent, struct lg_loop *loop, PyObject *py_loop)
{
    uint32_t epoch = agent->epoch;
    if (!loop->has_edges && loop->kind == LG_LOOP_ASYNCIO &&
        lg_select_install(agent, loop, py_loop) && epoch == agent->epoch) {
        loop->gap_threshold_ns = agent->settings.config.iteration_threshold_ns;
        loop->has_edges = true;
        lg_agent_feature(agent, LG_FEATURE_ITERATIONS, true, "by the selector: no hooks");
    }
    if (py_loop != NULL) {
        lg_task_install(agent, py_loop);
    }
    else {
        lg_agent_feature(agent, LG_FEATURE_TASKS, false, "needs an asyncio loop");
    }
}

/* A slot never used, else one whose thread has ended: a thread alive goes on
 * writing into its own, also after its loop is gone. */
static struct lg_loop *
free_slot(struct lg_agent *agent)
{
    take_back_slots(agent);
    for (int i = 0; i < LG_LOOPS; i++) {
        if (agent->loops[i].used == LG_LOOP_UNUSED && !is_thread_alive(agent->loops[i].tid)) {
            return &agent->loops[i];
        }
    }
    for (int i = 0; i < LG_LOOPS; i++) {
        struct lg_loop *loop = &agent->loops[i];
        if (!is_thread_alive(loop->tid)) {
            lg_loop_close(loop);
            lg_threshold_close(loop->threshold);    /* perhaps of another configuration */
            loop->threshold = NULL;
            return loop;
        }
    }
    return NULL;
}

/* Those of loops whose threads still ran when the agent was stopped, and have
 * ended since. */
static void
take_back_slots(struct lg_agent *agent)
{
    for (int i = 0; i < LG_LOOPS; i++) {
        struct lg_loop *loop = &agent->loops[i];
        if (loop->used == LG_LOOP_RETIRED && !is_thread_alive(loop->tid)) {
            free(loop->notes.slot);
            memset(&loop->notes, 0, sizeof(loop->notes));
            lg_threshold_close(loop->threshold);
            loop->threshold = NULL;
            /* The watchdog looks at what is not retired: pairs with its acquire. */
            lg_store32_release(&loop->used, LG_LOOP_UNUSED);
        }
    }
}

/* Of another thread than this one. */
static bool
is_thread_alive(pid_t tid)
{
    return tid != 0 && tid != (pid_t)syscall(SYS_gettid) &&
           syscall(SYS_tgkill, getpid(), tid, 0) == 0;
}

void
lg_loop_set_threshold(struct lg_loop *loop, uint64_t ns, bool gaps_too)
{
    lg_store_relaxed(&loop->threshold_ns, ns);
    lg_store_relaxed(&loop->entry->threshold_ns, ns);
    if (gaps_too && loop->has_edges) {
        lg_store_relaxed(&loop->gap_threshold_ns, ns);
    }
    lg_store_relaxed(&loop->calls.slow_ns, slow_ns(ns));
}

/* Calls from here on have their stack taken. */
static uint64_t
slow_ns(uint64_t threshold_ns)
{
    return threshold_ns / 4 > LG_CALL_LOOK_NS ? threshold_ns / 4 : LG_CALL_LOOK_NS;
}

bool
lg_loop_has_thread(const struct lg_loop *loop)
{
    return is_thread_alive(loop->tid);
}

PyObject *
lg_loop_object(const struct lg_loop *loop)
{
    return loop->loop == NULL ? NULL : lg_weakref_object(loop->loop);
}

static bool
is_same(const struct lg_loop *loop, PyObject *py_loop)
{
    PyObject *known = lg_loop_object(loop);
    Py_XDECREF(known);
    return known == py_loop && (py_loop != NULL || loop->loop == NULL);
}

/* New reference, or NULL: no asyncio loop runs in this thread (trio, a test). */
static PyObject *
running_loop(struct lg_agent *agent)
{
    PyObject *py_loop =
        agent->get_running_loop != NULL ? PyObject_CallNoArgs(agent->get_running_loop) : NULL;
    if (py_loop == Py_None) {
        Py_CLEAR(py_loop);
    }
    PyErr_Clear();
    return py_loop;
}

static uint64_t
hook_of(PyThreadState *tstate, PyObject *py_loop)
{
    PyObject *hook = tstate->async_gen_firstiter;
    bool is_its = hook != NULL && PyMethod_Check(hook) && PyMethod_GET_SELF(hook) == py_loop;
    return is_its ? (uintptr_t)hook : 0;
}

static enum lg_loop_kind
kind_of(PyObject *py_loop)
{
    if (py_loop == NULL) {
        return LG_LOOP_OTHER;
    }
    enum lg_loop_kind kind = LG_LOOP_OTHER;
    PyObject *module = PyObject_GetAttrString((PyObject *)Py_TYPE(py_loop), "__module__");
    const char *text = module != NULL && PyUnicode_Check(module) ? PyUnicode_AsUTF8(module) : NULL;
    if (text != NULL && strncmp(text, "asyncio.", 8) == 0) {
        kind = LG_LOOP_ASYNCIO;
    }
    else if (text != NULL && strncmp(text, "uvloop", 6) == 0) {
        kind = LG_LOOP_UVLOOP;
    }
    Py_XDECREF(module);
    PyErr_Clear();
    return kind;
}

/* The loop's epoll descriptor, -1 when it does not say. */
static int
descriptor_of(PyObject *py_loop, enum lg_loop_kind kind)
{
    PyObject *number = NULL;
    if (kind == LG_LOOP_UVLOOP) {
        number = PyObject_CallMethod(py_loop, "_get_backend_id", NULL);
    }
    else if (py_loop != NULL) {
        PyObject *selector = PyObject_GetAttrString(py_loop, "_selector");
        number = selector != NULL ? PyObject_CallMethod(selector, "fileno", NULL) : NULL;
        Py_XDECREF(selector);
    }
    long fd = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fd = -1;
    }
    return (int)fd;
}

/* asyncio's self-pipe: the sign of its poll where it is no epoll. */
static int
wakeup_descriptor(PyObject *py_loop)
{
    PyObject *sock = py_loop != NULL ? PyObject_GetAttrString(py_loop, "_ssock") : NULL;
    PyObject *number = sock != NULL ? PyObject_CallMethod(sock, "fileno", NULL) : NULL;
    long fd = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    Py_XDECREF(sock);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fd = -1;
    }
    return (int)fd;
}

/* ---- ending ------------------------------------------------------------ */

void
lg_loop_close(struct lg_loop *loop)
{
    if (loop->used != LG_LOOP_USED) {
        return;
    }
    uint64_t now = lg_now_ns();
    bool own = lg_loop_current() == loop;
    lg_store32_release(&loop->used, LG_LOOP_UNUSED);
    if (own) {
        lg_calls_attach(NULL);
        loop->tid = 0;                  /* this thread does not come by any more */
    }
    else {
        wait_for_edge(loop);
    }
    if (loop->entry != NULL && loop->agent->rec.seg.base != NULL) {
        lg_seq_begin(&loop->entry->seq);
        lg_store_relaxed(&loop->entry->state, LG_LOOP_CLOSED);
        lg_seq_end(&loop->entry->seq);
        lg_store_relaxed(&loop->entry->awake_since_ns, 0);
        lg_store_relaxed(&loop->entry->closed_ns, now);
        lg_record_push(&loop->agent->rec, LG_RING_EVENTS, now, LG_REC_LIFECYCLE, 0, 0,
                       LG_LIFE_LOOP_CLOSED, 0, loop->index, 0, 0);
    }
    lg_meter_close(&loop->meter);
    lg_tell_drop(&loop->untold);
    lg_slice_loop_gone(loop);
    free(loop->cumulative);
    loop->cumulative = NULL;
    loop->running = NULL;
    Py_CLEAR(loop->ready);
    Py_CLEAR(loop->loop);
}

/* ---- the present step -------------------------------------------------- */

void
lg_loop_publish(struct lg_loop *loop, const struct lg_owner *owner, uint64_t start_ns,
                uint64_t state)
{
    struct lg_loop_entry *e = loop->entry;
    uint32_t endpoint = owner->endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)owner->endpoint;
    loop->step_number++;
    lg_seq_begin(&e->seq);
    lg_store_relaxed(&e->state, state);
    lg_store_relaxed(&e->step, loop->step_number);
    lg_store_relaxed(&e->step_start_ns, start_ns);
    lg_store_relaxed(&e->endpoint_task, LG_PAIR(endpoint, 0));
    lg_store_relaxed(&e->request_tid, LG_PAIR(owner->id, loop->tid));
    lg_seq_end(&e->seq);
}

void
lg_loop_rename(struct lg_loop *loop, const struct lg_owner *owner)
{
    struct lg_loop_entry *e = loop->entry;
    lg_seq_begin(&e->seq);
    lg_store_relaxed(&e->endpoint_task, LG_PAIR(owner->endpoint, 0));
    lg_seq_end(&e->seq);
}

/* ---- edges: on the loop thread, without the GIL ------------------------ */

static void
poll_enter(struct lg_calls *calls, uint64_t now_ns)
{
    lg_loop_poll_enter((struct lg_loop *)calls, now_ns);
}

static void
poll_leave(struct lg_calls *calls, uint64_t now_ns, int n_events)
{
    (void)n_events;
    lg_loop_poll_leave((struct lg_loop *)calls, now_ns);
}

void
lg_loop_poll_enter(struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_agent *agent = loop->agent;
    if (!begin_edge(loop)) {
        return;
    }
    if (loop->awake_ns != 0 && !lg_loop_begun_anew(loop, now_ns)) {
        lg_charge_iteration(loop, now_ns);
    }
    loop->awake_ns = 0;
    lg_store_relaxed(&loop->entry->poll_since_ns, now_ns);
    lg_store_relaxed(&loop->entry->awake_since_ns, 0);
    bool untold = loop->untold != NULL;
    end_edge(loop);
    if (untold) {
        lg_tell_from_poll(loop);        /* not within the edge: it takes the GIL */
    }
    if (agent->slices != NULL && loop->used == LG_LOOP_USED) {
        lg_slice_poll_enter(loop, now_ns);
    }
}

/* False: stopped, or another loop polls on the same descriptor number. */
static bool
begin_edge(struct lg_loop *loop)
{
    lg_store32_relaxed(&loop->in_edge, 1);
    /* The stop must see in_edge, or we its `used`. The processor's half of that
     * order is the membarrier() of wait_for_edge(), which costs nothing here. */
    __asm__ volatile("" ::: "memory");
    if (lg_load32_relaxed(&loop->used) != LG_LOOP_USED || !lg_loop_runs(loop)) {
        end_edge(loop);
        return false;
    }
    return true;
}

static void
end_edge(struct lg_loop *loop)
{
    /* All that the edge wrote is done. Pairs with wait_for_edge(). */
    lg_store32_release(&loop->in_edge, 0);
}

/* An edge takes a microsecond at most, and never waits for us. */
static void
wait_for_edge(struct lg_loop *loop)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0 ||
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
        usleep(1000);                   /* forbidden here: time enough for any store */
    }
    while (lg_load32_acquire(&loop->in_edge)) {
        sched_yield();
    }
}

/* The hook is a new object then; one that lies at the old one's address is told
 * by the watchdog, who saw the thread without. */
bool
lg_loop_begun_anew(struct lg_loop *loop, uint64_t now_ns)
{
    uint64_t hook = loop->hook == 0 ? 0 : (uintptr_t)loop->tstate->async_gen_firstiter;
    if (hook == loop->hook && !lg_load32_relaxed(&loop->left)) {
        return false;
    }
    lg_store_relaxed(&loop->hook, hook);
    lg_store32_relaxed(&loop->left, 0);
    wake_up(loop, now_ns);
    return true;
}

void
lg_loop_poll_leave(struct lg_loop *loop, uint64_t now_ns)
{
    if (begin_edge(loop)) {
        wake_up(loop, now_ns);
        end_edge(loop);
        if (loop->agent->slices != NULL) {
            lg_slice_poll_leave(loop, now_ns);
        }
    }
}

static void
wake_up(struct lg_loop *loop, uint64_t now_ns)
{
    loop->awake_sums = lg_loop_sums(loop);
    loop->edge_sums = loop->awake_sums;
    loop->awake_gc_ns = loop->gc_ns;
    loop->edge_gc_ns = loop->gc_ns;
    loop->told_in_iteration_ns = 0;
    loop->edge_steps = lg_load_relaxed(&loop->entry->steps);
    loop->awake_ns = now_ns;
    lg_store_relaxed(&loop->edge_ns, now_ns);
    lg_store_relaxed(&loop->entry->awake_since_ns, now_ns);
}

bool
lg_loop_read_lag(uint64_t *lag_ns)
{
    struct lg_loop *loop = lg_loop_current();
    if (loop == NULL || !loop->has_edges || loop->awake_ns == 0 || !lg_loop_runs(loop)) {
        return false;
    }
    uint64_t now = lg_now_ns();
    uint64_t from = loop->awake_ns > loop->lag_read_ns ? loop->awake_ns : loop->lag_read_ns;
    *lag_ns = now - from > loop->unread_lag_ns ? now - from : loop->unread_lag_ns;
    loop->unread_lag_ns = 0;
    loop->lag_read_ns = now;
    return true;
}

/* A long blocking call has just returned: the Python stack is still the one
 * that made it. Names can wait. */
static void
slow_call(struct lg_calls *calls, const struct lg_call *call)
{
    struct lg_loop *loop = (struct lg_loop *)calls;
    if (call->kind == LG_CALL_GIL || loop->thread.tstate == 0 || loop->used != LG_LOOP_USED) {
        return;                         /* whoever waits for the GIL is not the story */
    }
    if (call->dur_ns < loop->slow_call_dur_ns && loop->slow_call_ns >= loop->edge_ns) {
        return;                         /* a longer one of this stretch is kept */
    }
    if (lg_pystack_capture_own(loop->agent->pystack, &loop->thread, &loop->slow_call_stack) == 0) {
        loop->slow_call_ns = call->start_ns + call->dur_ns;
        loop->slow_call_dur_ns = call->dur_ns;
    }
}
