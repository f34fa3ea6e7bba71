/*
 * slice.c - see slice.h.
 *
 * Slices of one thread lie in each other (a task started eagerly, an ASGI
 * application called by another one): slice[0] is the stretch between steps,
 * what is above are steps. Only the topmost runs; time and calls of one within
 * are not the outer one's.
 */
#include "slice_private.h"

#include <frameobject.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/lg_clock.h"
#include "../../common/lg_seqlock.h"
#include "../charge.h"
#include "../pycompat.h"
#include "../watchdog/sample.h"

static struct lg_slice_room *room_of(const struct lg_loop *loop);
static void begin(struct lg_slice_room *room, const struct lg_loop *loop, struct lg_owner *owner,
                  uint64_t now_ns);
static uint64_t hook_now(const struct lg_loop *loop);
static bool was_left(const struct lg_slice_room *room, const struct lg_loop *loop);
static bool is_worth_telling(const struct lg_slices *s, const struct lg_slice_room *room,
                             const struct lg_loop *loop, uint64_t now_ns);
static void end_step(struct lg_slice_room *room, const struct lg_loop *loop, uint64_t now_ns);
static bool end_between_steps(struct lg_loop *loop, uint64_t now_ns);
static bool tell(struct lg_loop *loop, uint64_t now_ns, bool may_raise);
static void call_receiver(const struct lg_loop *loop, const struct lg_slice *slice,
                          uint64_t elapsed_ns, PyObject *receive, PyObject *events);
static PyObject *take_exception(void);
static bool is_end_of_program(PyObject *type);
static void drop(struct lg_slice_room *room);
static void drop_all(struct lg_slice_room *room);
static void drop_calls(struct lg_slice_room *room, uint32_t from);
static PyObject *ask_providers(struct lg_agent *agent, struct lg_slice_room *room);
static bool wants_raising(struct lg_slices *s);
static void raise_violation(struct lg_slices *s, uint64_t elapsed_ns, PyObject *events);
static void capture_stack(struct lg_agent *agent, const struct lg_loop *loop,
                          struct lg_slice_call *call, uint32_t depth);
static void walk_frames(struct lg_slice_call *call, uint32_t depth);
static uint64_t blocked_until_now(const struct lg_loop *loop);
static void close_call(const struct lg_loop *loop, struct lg_slice_room *room, uint64_t blocked_ns);
static void pass_on_what_ends_the_program(void);
static void wake_loop(const struct lg_loop *loop);
static bool is_finalizing(void);

/* ---- on and off ---------------------------------------------------------- */

int
lg_slice_arm(struct lg_agent *agent, const struct lg_slice_options *options)
{
    struct lg_slices *s = agent->slice_rooms;
    if (s == NULL) {
        s = calloc(1, sizeof(*s));
        if (s == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        agent->slice_rooms = s;
    }
    struct lg_slice_options before = s->options;
    s->options = *options;
    Py_XINCREF(options->receive);
    Py_XINCREF(options->capture);
    Py_XINCREF(options->violation);
    Py_XINCREF(options->raising);
    if (agent->slices == NULL) {
        for (int i = 0; i < LG_LOOPS; i++) {
            /* A poll edge that was under way when we were disarmed may have
             * opened it; it holds nothing. */
            s->room[i].open = false;
        }
        agent->slices = s;
        struct lg_loop *loop = lg_loop_current();
        if (loop != NULL && lg_loop_runs(loop)) {
            begin(room_of(loop), loop, NULL, lg_now_ns());
        }
    }
    Py_XDECREF(before.receive);
    Py_XDECREF(before.capture);
    Py_XDECREF(before.violation);
    Py_XDECREF(before.raising);
    return 0;
}

void
lg_slice_disarm(struct lg_agent *agent)
{
    struct lg_loop *loop = lg_loop_current();
    if (agent->slices != NULL && loop != NULL && lg_slice_is_open(loop)) {
        struct lg_slice_room *room = room_of(loop);
        uint64_t now = lg_now_ns();
        while (room->depth > 0 && agent->slices != NULL && !room->busy) {
            (void)tell(loop, now, false);
        }
        (void)end_between_steps(loop, now);
    }
    lg_slice_stop(agent);
}

void
lg_slice_stop(struct lg_agent *agent)
{
    struct lg_slices *s = agent->slices;
    agent->slices = NULL;
    for (int i = 0; s != NULL && i < LG_LOOPS; i++) {
        drop_all(&s->room[i]);
    }
}

/* The parent's other threads are not here; what their slices hold belongs to an
 * interpreter that is not ours to call now, and is let go of by being forgotten. */
void
lg_slice_forked(struct lg_agent *agent)
{
    struct lg_slices *s = agent->slice_rooms;
    for (int i = 0; s != NULL && i < LG_LOOPS; i++) {
        struct lg_slice_room *room = &s->room[i];
        room->open = false;
        room->busy = false;
        room->depth = 0;
        room->calls = 0;
        room->since_ns = 0;
        memset(room->slice, 0, sizeof(room->slice));
    }
    if (s != NULL && s->walker != NULL) {
        lg_pystack_walker_after_fork(s->walker);
    }
}

void
lg_slice_reset(struct lg_agent *agent)
{
    struct lg_loop *loop = lg_loop_current();
    if (agent->slices != NULL && loop != NULL && lg_slice_is_open(loop)) {
        struct lg_slice_room *room = room_of(loop);
        struct lg_slice *slice = &room->slice[room->depth];
        drop_calls(room, slice->first_call);
        Py_CLEAR(slice->at_call);
        Py_CLEAR(slice->variables);
    }
}

void
lg_slice_loop_new(struct lg_loop *loop)
{
    if (loop->agent->slices != NULL) {
        drop_all(room_of(loop));
        begin(room_of(loop), loop, NULL, lg_now_ns());
    }
}

void
lg_slice_loop_gone(struct lg_loop *loop)
{
    if (loop->agent->slice_rooms != NULL) {
        drop_all(room_of(loop));
    }
}

void
lg_slice_left(struct lg_agent *agent)
{
    struct lg_loop *loop = lg_loop_current();
    if (agent->slices == NULL || loop == NULL) {
        return;
    }
    struct lg_slice_room *room = room_of(loop);
    if (room->open && !room->busy && room->depth == 0) {
        (void)end_between_steps(loop, lg_now_ns());
    }
}

static struct lg_slice_room *
room_of(const struct lg_loop *loop)
{
    return &loop->agent->slice_rooms->room[loop->index];
}

/* ---- edges --------------------------------------------------------------- */

uint64_t
lg_slice_enter(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns, uint64_t *token)
{
    struct lg_agent *agent = loop->agent;
    struct lg_slice_room *room = room_of(loop);
    *token = 0;
    if (room->busy) {
        return now_ns;                  /* a step within Python code of ours */
    }
    uint64_t start = now_ns;
    if (room->depth == 0 && room->open && end_between_steps(loop, now_ns)) {
        start = lg_now_ns();
    }
    PyObject *context = NULL;
    if (agent->slices != NULL && agent->slices->options.capture != Py_None) {
        context = ask_providers(agent, room);
        start = lg_now_ns();
    }
    if (agent->slices == NULL || lg_loop_current() != loop) {
        Py_XDECREF(context);
        return lg_loop_current() == loop ? start : 0;
    }
    if (!room->open) {
        begin(room, loop, NULL, start);
    }
    if (room->depth + 1 < LG_SLICE_DEPTH) {
        room->depth++;
        begin(room, loop, owner, start);
        room->slice[room->depth].at_start = context;
        *token = room->last_serial;
    }
    else {
        Py_XDECREF(context);
    }
    return start;
}

bool
lg_slice_leave(struct lg_loop *loop, uint64_t token, uint64_t now_ns, bool may_raise)
{
    if (loop == NULL || lg_loop_current() != loop) {
        return false;                   /* the agent was stopped since */
    }
    struct lg_slice_room *room = room_of(loop);
    uint32_t at = room->depth;
    while (at > 0 && room->slice[at].serial != token) {
        at--;
    }
    if (at == 0 || room->busy) {
        return false;                   /* disarmed since, or armed anew */
    }
    while (room->depth > at) {
        drop(room);                     /* one that never ended: its coroutine was lost */
    }
    if (is_worth_telling(loop->agent->slices, room, loop, now_ns)) {
        return tell(loop, now_ns, may_raise);
    }
    end_step(room, loop, now_ns);
    return false;
}

/* The topmost slice is over; what it took is not the outer one's. */
static void
end_step(struct lg_slice_room *room, const struct lg_loop *loop, uint64_t now_ns)
{
    const struct lg_slice ended = room->slice[room->depth];
    drop(room);
    if (room->depth == 0) {
        begin(room, loop, NULL, now_ns);
        return;
    }
    struct lg_slice *outer = &room->slice[room->depth];
    struct lg_sums sums = lg_loop_sums(loop);
    outer->within_ns += now_ns - ended.start_ns;
    outer->sums.io += sums.io - ended.sums.io;
    outer->sums.disk += sums.disk - ended.sums.disk;
    outer->sums.lock += sums.lock - ended.sums.lock;
    outer->sums.gil += sums.gil - ended.sums.gil;
    outer->gc_ns += loop->gc_ns - ended.gc_ns;
    lg_store_relaxed(&room->serial, outer->serial);
    lg_store_release(&room->since_ns, outer->start_ns);
}

void
lg_slice_poll_enter(struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_agent *agent = loop->agent;
    struct lg_slices *s = agent->slices;
    struct lg_slice_room *room = room_of(loop);
    if (s == NULL || !room->open || room->busy || room->depth != 0) {
        return;                         /* a loop that runs within another one's callback */
    }
    lg_store_relaxed(&room->since_ns, 0);
    if (!is_worth_telling(s, room, loop, now_ns)) {
        room->open = false;
        return;
    }
    if (is_finalizing()) {
        return;                         /* who takes the GIL now does not come back */
    }
    PyGILState_STATE state = PyGILState_Ensure();
    if (agent->slices != NULL && lg_loop_current() == loop && room->open && !room->busy &&
        end_between_steps(loop, now_ns) && lg_loop_current() == loop) {
        /* How long to poll is decided already: what our Python code scheduled
         * must not wait for the next event from outside. */
        wake_loop(loop);
    }
    PyGILState_Release(state);
}

void
lg_slice_poll_leave(struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_slice_room *room = room_of(loop);
    if (!room->busy && room->depth == 0 && !room->open) {
        begin(room, loop, NULL, now_ns);
    }
}

void
lg_slice_parts(struct lg_loop *loop, uint64_t wall_ns, const uint64_t parts_ns[LG_CAUSE_COUNT])
{
    struct lg_slice_room *room = room_of(loop);
    if (room->open && !room->busy) {
        struct lg_slice *slice = &room->slice[room->depth];
        slice->parts_of_ns += wall_ns;
        for (int i = 0; i < LG_CAUSE_COUNT; i++) {
            slice->parts_ns[i] += parts_ns[i];
        }
    }
}

/* Fills slice[depth]. No Python code, no reference: also without the GIL. */
static void
begin(struct lg_slice_room *room, const struct lg_loop *loop, struct lg_owner *owner,
      uint64_t now_ns)
{
    struct lg_slice *slice = &room->slice[room->depth];
    memset(slice, 0, sizeof(*slice));
    slice->serial = ++room->last_serial;
    slice->start_ns = now_ns;
    slice->hook = hook_now(loop);
    slice->owner = owner;
    slice->sums = lg_loop_sums(loop);
    slice->gc_ns = loop->gc_ns;
    slice->first_call = room->calls;
    room->open = true;
    lg_store_relaxed(&room->serial, slice->serial);
    /* The watchdog that sees this start also sees the serial. Pairs with
     * lg_slice_watch(). */
    lg_store_release(&room->since_ns, now_ns);
}

/* Set by each run_forever(), as a new object: see lg_loop_runs(). */
static uint64_t
hook_now(const struct lg_loop *loop)
{
    return loop->hook == 0 ? 0 : (uintptr_t)loop->tstate->async_gen_firstiter;
}

/* run_forever() was left since the stretch between steps began, and nobody told
 * us when: its time is known up to its last call. */
static bool
was_left(const struct lg_slice_room *room, const struct lg_loop *loop)
{
    return room->depth == 0 && room->slice[0].hook != hook_now(loop);
}

/* Without edges of the poll a stretch between steps may have been idle. */
static bool
is_worth_telling(const struct lg_slices *s, const struct lg_slice_room *room,
                 const struct lg_loop *loop, uint64_t now_ns)
{
    const struct lg_slice *slice = &room->slice[room->depth];
    return room->calls > slice->first_call ||
           ((room->depth > 0 || (loop->has_edges && !was_left(room, loop))) &&
            now_ns - slice->start_ns - slice->within_ns >= s->options.threshold_ns);
}

/* True: Python code ran, and anything may be different now. GIL. */
static bool
end_between_steps(struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_slices *s = loop->agent->slices;
    struct lg_slice_room *room = room_of(loop);
    if (s == NULL || !room->open || room->depth != 0 || room->busy) {
        return false;
    }
    if (!is_worth_telling(s, room, loop, now_ns)) {
        drop(room);
        return false;
    }
    (void)tell(loop, now_ns, false);
    return true;
}

/* ---- telling ------------------------------------------------------------- */

/* Ends the topmost slice and calls the receiver. True: an exception is set. */
static bool
tell(struct lg_loop *loop, uint64_t now_ns, bool may_raise)
{
    struct lg_agent *agent = loop->agent;
    struct lg_slices *s = agent->slices;
    struct lg_slice_room *room = room_of(loop);
    struct lg_slice slice = room->slice[room->depth];
    if (was_left(room, loop) && room->calls > slice.first_call) {
        now_ns = room->call[room->calls - 1].at_ns;
    }
    uint64_t elapsed = now_ns - slice.start_ns - slice.within_ns;
    struct lg_pending pending;
    lg_pending_save(&pending);
    may_raise = may_raise && pending.type == NULL;
    room->busy = true;
    uint32_t epoch = agent->epoch;
    PyObject *receive = Py_NewRef(s->options.receive);
    bool raising = may_raise && !slice.refused && wants_raising(s);
    PyObject *events = NULL;
    PyObject *exception = NULL;
    int measured = 0;
    if (receive != Py_None || raising) {
        close_call(loop, room, blocked_until_now(loop));
        events = lg_slice_events(room);
        if (events != NULL && PyList_GET_SIZE(events) == 0) {
            PyObject *one = elapsed >= s->options.threshold_ns
                                ? lg_slice_measured(s, loop, slice.start_ns, elapsed / 2, &measured)
                                : NULL;
            if (one != NULL) {
                (void)PyList_Append(events, one);
                Py_DECREF(one);
            }
        }
    }
    if (events != NULL && receive != Py_None) {
        call_receiver(loop, &slice, elapsed, receive, events);
        PyObject *type = PyErr_Occurred();      /* borrowed */
        if (may_raise && type != NULL && is_end_of_program(type)) {
            exception = take_exception();
        }
        pass_on_what_ends_the_program();
    }
    if (raising && exception == NULL && events != NULL && measured >= LG_SLICE_HIGH &&
        agent->slices != NULL) {
        raise_violation(s, elapsed, events);
        exception = take_exception();
    }
    Py_XDECREF(events);
    Py_DECREF(receive);
    PyErr_Clear();
    room->busy = false;
    /* The Python code may have disarmed us: then the room is empty already. */
    if (room->open && room->slice[room->depth].serial == slice.serial) {
        if (agent->slices != NULL && epoch == agent->epoch && room->depth > 0) {
            end_step(room, loop, lg_now_ns());
        }
        else {
            drop(room);
        }
    }
    lg_pending_restore(&pending);
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
        return true;
    }
    return false;
}

/* Leaves what it raised set. */
static void
call_receiver(const struct lg_loop *loop, const struct lg_slice *slice, uint64_t elapsed_ns,
              PyObject *receive, PyObject *events)
{
    struct lg_agent *agent = loop->agent;
    struct lg_slices *s = agent->slices;
    PyObject *contexts = Py_BuildValue("(OO)", slice->at_start != NULL ? slice->at_start : Py_None,
                                       slice->at_call != NULL ? slice->at_call : Py_None);
    PyObject *samples = lg_slice_samples(s, agent, room_of(loop), slice->serial);
    PyObject *blocked = lg_slice_blocked(loop, slice, elapsed_ns);
    PyObject *request = lg_slice_request(agent, slice->owner);
    PyObject *args = contexts != NULL && samples != NULL && blocked != NULL && request != NULL
                         ? Py_BuildValue("(KKOOOOO)", (unsigned long long)elapsed_ns,
                                         (unsigned long long)s->options.threshold_ns, events,
                                         contexts, samples, blocked, request)
                         : NULL;
    PyObject *done = NULL;
    if (args != NULL && slice->variables != NULL) {
        PyObject *run = PyObject_GetAttrString(slice->variables, "run");
        PyObject *head = PyTuple_Pack(1, receive);
        PyObject *all = head != NULL ? PySequence_Concat(head, args) : NULL;
        done = run != NULL && all != NULL ? PyObject_CallObject(run, all) : NULL;
        Py_XDECREF(all);
        Py_XDECREF(head);
        Py_XDECREF(run);
    }
    else if (args != NULL) {
        done = PyObject_CallObject(receive, args);
    }
    Py_XDECREF(done);
    Py_XDECREF(args);
    Py_XDECREF(request);
    Py_XDECREF(blocked);
    Py_XDECREF(samples);
    Py_XDECREF(contexts);
}

/* The one that is set, new reference. */
static PyObject *
take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        (void)PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static bool
is_end_of_program(PyObject *type)
{
    return PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(type, PyExc_SystemExit);
}

/* The topmost slice goes, with all that it holds. */
static void
drop(struct lg_slice_room *room)
{
    struct lg_slice *slice = &room->slice[room->depth];
    drop_calls(room, slice->first_call);
    PyObject *at_start = slice->at_start;
    PyObject *at_call = slice->at_call;
    PyObject *variables = slice->variables;
    slice->at_start = NULL;
    slice->at_call = NULL;
    slice->variables = NULL;
    if (room->depth > 0) {
        room->depth--;
    }
    else {
        room->open = false;
        lg_store_relaxed(&room->since_ns, 0);
    }
    Py_XDECREF(at_start);
    Py_XDECREF(at_call);
    Py_XDECREF(variables);
}

static void
drop_all(struct lg_slice_room *room)
{
    while (room->open) {
        drop(room);
    }
}

/* Dropping may run a destructor's Python code: the room is in order first. */
static void
drop_calls(struct lg_slice_room *room, uint32_t from)
{
    while (room->calls > from) {
        struct lg_slice_call *call = &room->call[--room->calls];
        PyObject *name = call->name;
        PyObject *args = call->args;
        call->name = NULL;
        call->args = NULL;
        for (uint32_t i = 0; i < call->depth; i++) {
            Py_CLEAR(call->code[i]);
        }
        call->depth = 0;
        bool before = room->busy;
        room->busy = true;
        Py_XDECREF(name);
        Py_XDECREF(args);
        room->busy = before;
    }
}

static PyObject *
ask_providers(struct lg_agent *agent, struct lg_slice_room *room)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *capture = Py_NewRef(agent->slices->options.capture);
    room->busy = true;
    PyObject *context = PyObject_CallNoArgs(capture);
    room->busy = false;
    Py_DECREF(capture);
    pass_on_what_ends_the_program();
    lg_pending_restore(&pending);
    return context;
}

/* A signal handler may raise KeyboardInterrupt or SystemExit in any Python code,
 * so also in ours: raised anew in the code that runs next. */
static void
pass_on_what_ends_the_program(void)
{
    PyObject *type = PyErr_Occurred();  /* borrowed */
    if (type != NULL && is_end_of_program(type)) {
        (void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), type);
    }
    PyErr_Clear();
}

static bool
is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

static void
wake_loop(const struct lg_loop *loop)
{
    struct lg_slice_room *room = room_of(loop);
    PyObject *py_loop = loop->used == LG_LOOP_USED ? lg_loop_object(loop) : NULL;
    if (py_loop == NULL) {
        return;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    room->busy = true;
    PyObject *nothing = PyObject_GetAttrString(py_loop, "time");
    PyObject *handle =
        nothing != NULL ? PyObject_CallMethod(py_loop, "call_soon_threadsafe", "O", nothing) : NULL;
    room->busy = false;
    Py_XDECREF(handle);
    Py_XDECREF(nothing);
    Py_DECREF(py_loop);
    pass_on_what_ends_the_program();
    lg_pending_restore(&pending);
}

/* ---- calls --------------------------------------------------------------- */

bool
lg_slice_is_open(const struct lg_loop *loop)
{
    const struct lg_slice_room *room = room_of(loop);
    return room->open && !room->busy && !loop->telling && lg_loop_runs(loop);
}

int
lg_slice_call(struct lg_loop *loop, PyObject *name, PyObject *args, int weight, uint64_t *token)
{
    struct lg_agent *agent = loop->agent;
    struct lg_slices *s = agent->slices;
    struct lg_slice_room *room = room_of(loop);
    struct lg_slice *slice = &room->slice[room->depth];
    *token = 0;
    if (room->calls == LG_SLICE_CALLS || room->calls - slice->first_call >= LG_SLICE_EVENTS) {
        return 0;
    }
    uint64_t blocked = blocked_until_now(loop);
    close_call(loop, room, blocked);
    if (room->calls == slice->first_call) {
        PyObject *said = s->options.capture != Py_None ? ask_providers(agent, room) : NULL;
        if (agent->slices == NULL || lg_loop_current() != loop || !room->open) {
            Py_XDECREF(said);
            return 0;                   /* a provider switched us off */
        }
        Py_XSETREF(slice->at_call, said);
        if (room->depth == 0 && slice->variables == NULL) {
            slice->variables = PyContext_CopyCurrent();
            PyErr_Clear();
        }
    }
    uint64_t now = lg_now_ns();
    struct lg_slice_call *call = &room->call[room->calls];
    call->name = Py_NewRef(name);
    call->args = Py_NewRef(args);
    call->weight = weight;
    call->is_timed = false;
    call->duration_ns = LG_NONE;
    call->blocked_ns = blocked;
    call->at_ns = now;
    capture_stack(agent, loop, call, s->options.event_depth);
    room->calls++;
    *token = slice->serial << 8 | room->calls;
    if (weight == 0 || slice->refused || !wants_raising(s)) {
        return 0;
    }
    int score = 0;
    for (uint32_t i = slice->first_call; i < room->calls; i++) {
        score += room->call[i].weight;
    }
    if (score < LG_SLICE_HIGH) {
        return 0;
    }
    slice->refused = true;
    room->busy = true;
    PyObject *events = lg_slice_events(room);
    if (events != NULL) {
        raise_violation(s, now - slice->start_ns - slice->within_ns, events);
        Py_DECREF(events);
    }
    room->busy = false;
    return PyErr_Occurred() != NULL ? -1 : 0;
}

int
lg_slice_check(struct lg_agent *agent, uint64_t since_ns)
{
    struct lg_loop *loop = lg_loop_current();
    struct lg_slices *s = agent->slices;
    if (s == NULL || loop == NULL || !lg_slice_is_open(loop)) {
        return 0;
    }
    struct lg_slice_room *room = room_of(loop);
    struct lg_slice *slice = &room->slice[room->depth];
    uint64_t since = since_ns > slice->start_ns ? since_ns : slice->start_ns;
    if (slice->refused || room->calls != slice->first_call ||
        lg_now_ns() - since < s->options.threshold_ns) {
        return 0;                       /* what audit events told of has been raised */
    }
    int weight = 0;
    room->busy = true;
    PyObject *one = lg_slice_measured(s, loop, since, s->options.threshold_ns, &weight);
    if (one != NULL && weight >= LG_SLICE_HIGH) {
        PyObject *events = PyList_New(0);
        if (events != NULL && PyList_Append(events, one) == 0) {
            slice->refused = true;
            raise_violation(s, lg_now_ns() - slice->start_ns - slice->within_ns, events);
        }
        Py_XDECREF(events);
    }
    Py_XDECREF(one);
    room->busy = false;
    return PyErr_Occurred() != NULL ? -1 : 0;
}

void
lg_slice_took(struct lg_loop *loop, uint64_t token, uint64_t duration_ns)
{
    struct lg_slice_room *room = room_of(loop);
    uint32_t n = (uint32_t)(token & 0xff);
    if (room->open && n != 0 && n <= room->calls && room->slice[room->depth].serial == token >> 8) {
        room->call[n - 1].duration_ns = duration_ns;
        room->call[n - 1].is_timed = true;
    }
}

static uint64_t
blocked_until_now(const struct lg_loop *loop)
{
    return loop->calls.io_ns + loop->calls.disk_ns + loop->calls.lock_ns;
}

/* What the hooks saw since the last call began was that call's. */
static void
close_call(const struct lg_loop *loop, struct lg_slice_room *room, uint64_t blocked_ns)
{
    if (room->calls > room->slice[room->depth].first_call) {
        struct lg_slice_call *last = &room->call[room->calls - 1];
        if (!last->is_timed && loop->agent->features[LG_FEATURE_HOOKS].on) {
            last->duration_ns = blocked_ns - last->blocked_ns;
        }
    }
}

static bool
wants_raising(struct lg_slices *s)
{
    PyObject *value = NULL;
    if (s->options.raising == Py_None || s->options.violation == Py_None ||
        PyContextVar_Get(s->options.raising, NULL, &value) < 0) {
        PyErr_Clear();
        return false;
    }
    bool wanted = value == Py_True;
    Py_XDECREF(value);
    return wanted;
}

/* Leaves the exception set; none when it could not be made. */
static void
raise_violation(struct lg_slices *s, uint64_t elapsed_ns, PyObject *events)
{
    PyObject *violation = Py_NewRef(s->options.violation);
    PyObject *exception =
        PyObject_CallFunction(violation, "KKO", (unsigned long long)elapsed_ns,
                              (unsigned long long)s->options.threshold_ns, events);
    if (exception != NULL && PyExceptionInstance_Check(exception)) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    else {
        PyErr_Clear();
    }
    Py_XDECREF(exception);
    Py_DECREF(violation);
}

/* Under the GIL and on our own stack a code object cannot go away: a reference
 * to each is all that names and lines need later. */
static void
capture_stack(struct lg_agent *agent, const struct lg_loop *loop, struct lg_slice_call *call,
              uint32_t depth)
{
    struct lg_pystack_sample raw;
    call->depth = 0;
    call->has_lines = false;
    if (agent->pystack == NULL || loop->thread.tstate == 0 ||
        lg_pystack_capture_own(agent->pystack, &loop->thread, &raw) != 0) {
        walk_frames(call, depth);
        return;
    }
    call->depth = raw.depth < depth ? raw.depth : depth;
    for (uint32_t i = 0; i < call->depth; i++) {
        call->code[i] = Py_NewRef((PyObject *)(uintptr_t)raw.frames[i].code);
        call->at[i] = raw.frames[i].offset;
    }
}

/* Where stacks cannot be read from memory: by the interpreter's own functions. */
static void
walk_frames(struct lg_slice_call *call, uint32_t depth)
{
    PyFrameObject *frame = PyEval_GetFrame();
    Py_XINCREF(frame);
    call->has_lines = true;
    while (frame != NULL && call->depth < depth && call->depth < LG_PYSTACK_DEPTH) {
        call->code[call->depth] = (PyObject *)PyFrame_GetCode(frame);
        call->at[call->depth] = PyFrame_GetLineNumber(frame);
        call->depth++;
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
}

/* ---- the watchdog's side -------------------------------------------------- */

void
lg_slice_watch(struct lg_sampler *sampler, struct lg_loop *loop, uint64_t now_ns)
{
    const struct lg_slices *s = loop->agent->slices;
    if (s == NULL || !s->options.sampling) {
        return;
    }
    struct lg_slice_room *room = room_of(loop);
    /* Pairs with begin(). */
    uint64_t since = lg_load_acquire(&room->since_ns);
    uint64_t serial = lg_load_relaxed(&room->serial);
    if (since == 0 || now_ns < since || now_ns - since < s->options.arm_after_ns) {
        return;
    }
    bool is_new = room->sampled != serial;
    if ((!is_new && room->samples >= s->options.max_samples) || s->options.max_samples == 0 ||
        !lg_sample_brief(sampler, loop, &room->scratch) || room->scratch.depth == 0 ||
        lg_load_acquire(&room->serial) != serial) {
        return;                         /* or it ended meanwhile, and that is another's stack */
    }
    if (is_new) {
        /* The loop's thread is in this slice: it reads none of these now. */
        lg_store32_release(&room->stacks, 0);
        room->samples = 0;
        lg_store_release(&room->sampled, serial);
    }
    room->samples++;
    uint32_t n = room->stacks;
    const struct lg_pystack_sample *raw = &room->scratch;
    for (uint32_t i = 0; i < n; i++) {
        struct lg_slice_stack *seen = &room->seen[i];
        if (seen->frames.depth == raw->depth &&
            memcmp(seen->frames.frames, raw->frames, raw->depth * sizeof(raw->frames[0])) == 0) {
            lg_store32_relaxed(&seen->count, seen->count + 1);
            return;
        }
    }
    if (n < LG_SLICE_STACKS) {
        room->seen[n].count = 1;
        room->seen[n].frames = *raw;
        /* The entry is whole before it is counted. Pairs with lg_slice_samples(). */
        lg_store32_release(&room->stacks, n + 1);
    }
}

uint64_t
lg_slice_tick_ns(const struct lg_agent *agent, uint64_t tick_ns, bool quiet)
{
    const struct lg_slices *s = agent->slices;
    if (s == NULL || !s->options.sampling) {
        return tick_ns;
    }
    uint64_t wanted = quiet ? s->options.idle_ns : s->options.interval_ns;
    wanted = wanted < LG_NS_PER_MS ? LG_NS_PER_MS : wanted;
    return wanted < tick_ns ? wanted : tick_ns;
}
