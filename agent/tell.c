/*
 * tell.c - from a stall to a dict, and from that to the listener.
 */
#include "tell.h"

#include <stdlib.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "../common/lg_seqlock.h"
#include "agent.h"
#include "asgi/answer.h"
#include "charge.h"
#include "names.h"
#include "pycompat.h"
#include "watchdog/sample.h"

/* One stall, from where it was charged to where it is told. */
struct lg_tale {
    struct lg_tale *next;
    int32_t ran;                        /* endpoint, -1 = none, or no name yet */
    bool unnamed;                       /* `ran`, and the blame, are to get the owner's name */
    PyObject *path;                     /* that was asked for, or NULL */
    bool excluded;                      /* it is one of exclude_paths */
    uint32_t blocks;                    /* of the owner so far, this one included */
    struct lg_note facts;
};

/* What only the watchdog saw of it. */
struct seen {
    uint32_t endpoint;                  /* LG_ENDPOINT_OTHER when it saw nothing */
    uint32_t holder;
    uint32_t call;                      /* ids; 0 = none */
    uint32_t stack;
    uint32_t holder_stack;
    uint64_t call_ns;
    struct lg_pystack_sample raw;       /* depth 0: none */
};

#define STALLS_SEARCHED 32u

static void look_at_scope(struct lg_tale *tale, const struct lg_owner *owner);
static void take_over(struct lg_tale **from, struct lg_tale **to);
static void call_listener(struct lg_agent *agent, struct lg_loop *loop, const struct lg_tale *tale);
static void raise_what_ends_the_program(void);
static void leave_out(struct lg_loop *loop, uint64_t from_ns, const struct lg_sums *sums,
                      uint64_t gc_ns);
static bool is_finalizing(void);
static void wake_loop(const struct lg_loop *loop);
static PyObject *make_info(struct lg_agent *agent, const struct lg_loop *loop,
                           const struct lg_tale *tale);
static bool find_seen(struct lg_agent *agent, const struct lg_loop *loop,
                      const struct lg_note *facts, struct seen *out);
static void find_glance(const struct lg_loop *loop, const struct lg_note *facts,
                        struct lg_pystack_sample *out);
static PyObject *endpoint_object(struct lg_agent *agent, int64_t endpoint);
static PyObject *string_object(struct lg_agent *agent, uint32_t id);
static PyObject *text_object(const char *text);
static PyObject *task_object(struct lg_agent *agent, uint32_t task);
static PyObject *parts_object(const struct lg_note *facts);
static PyObject *stack_object(struct lg_agent *agent, uint32_t stack);
static PyObject *raw_stack_object(struct lg_agent *agent, const struct lg_pystack_sample *raw);
static PyObject *callback_object(const struct lg_loop *loop, const struct lg_pystack_sample *raw,
                                 PyObject *stack);
static PyObject *callback_name(PyObject *stack, Py_ssize_t common);
static int add(PyObject *dict, const char *key, PyObject *value);
static const char *cause_text(uint32_t cause);

/* ---- taken down -------------------------------------------------------- */

int
lg_tell_set_listener(struct lg_agent *agent, PyObject *listener)
{
    if (listener == Py_None) {
        listener = NULL;
    }
    if (listener != NULL && !PyCallable_Check(listener)) {
        PyErr_Format(PyExc_TypeError, "the listener must be callable or None, not %.100s",
                     Py_TYPE(listener)->tp_name);
        return -1;
    }
    lg_store32_relaxed(&agent->is_heard, listener != NULL);
    Py_XSETREF(agent->listener, Py_XNewRef(listener));
    return 0;
}

void
lg_tell_later(struct lg_loop *loop, struct lg_owner *owner, int32_t ran, const struct lg_note *note)
{
    if (!lg_load32_relaxed(&loop->agent->is_heard) || loop->telling) {
        return;                         /* the listener's own doings are not told */
    }
    struct lg_tale *tale = malloc(sizeof(*tale));
    if (tale == NULL) {
        return;
    }
    tale->next = NULL;
    tale->ran = ran;
    tale->unnamed = ran < 0 && owner != NULL;
    tale->path = NULL;
    tale->excluded = false;
    tale->blocks = 0;
    if (owner != NULL) {
        tale->blocks = owner->blocks;
        look_at_scope(tale, owner);
    }
    tale->facts = *note;
    struct lg_tale **at = tale->unnamed ? &owner->untold : &loop->untold;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = tale;
}

/* Under the GIL, as every owner is charged. */
static void
look_at_scope(struct lg_tale *tale, const struct lg_owner *owner)
{
    PyObject *scope = owner->scope;
    if (scope == NULL || !PyDict_Check(scope)) {
        return;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *path = PyDict_GetItemWithError(scope, owner->agent->names->path);
    if (path != NULL && PyUnicode_CheckExact(path)) {
        tale->path = Py_NewRef(path);
    }
    tale->excluded =
        owner->rules != NULL && lg_answer_excludes((const struct lg_rules *)owner->rules, scope);
    PyErr_Clear();
    lg_pending_restore(&pending);
}

void
lg_tell_named(struct lg_owner *owner)
{
    struct lg_loop *loop = lg_loop_current();
    for (struct lg_tale *tale = owner->untold; tale != NULL; tale = tale->next) {
        tale->unnamed = false;
        tale->ran = owner->endpoint;
        if (!tale->facts.blamed_elsewhere && owner->endpoint >= 0) {
            tale->facts.endpoint = (uint32_t)owner->endpoint;
        }
    }
    if (loop != NULL) {
        take_over(&owner->untold, &loop->untold);
    }
    lg_tell_drop(&owner->untold);       /* its thread runs no loop of ours any more */
}

static void
take_over(struct lg_tale **from, struct lg_tale **to)
{
    while (*to != NULL) {
        to = &(*to)->next;
    }
    *to = *from;
    *from = NULL;
}

void
lg_tell_drop(struct lg_tale **tales)
{
    while (*tales != NULL) {
        struct lg_tale *tale = *tales;
        *tales = tale->next;
        Py_XDECREF(tale->path);
        free(tale);
    }
}

/* ---- told -------------------------------------------------------------- */

void
lg_tell_now(struct lg_loop *loop)
{
    struct lg_agent *agent = loop->agent;
    if (loop->telling) {
        return;                         /* a step within the listener */
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    struct lg_tale *tales = loop->untold;
    uint32_t epoch = agent->epoch;
    uint64_t from = lg_now_ns();
    struct lg_sums sums = lg_loop_sums(loop);
    uint64_t gc = loop->gc_ns;
    loop->untold = NULL;
    loop->telling = true;
    for (struct lg_tale *tale = tales; tale != NULL && epoch == agent->epoch; tale = tale->next) {
        call_listener(agent, loop, tale);
    }
    lg_tell_drop(&tales);
    if (epoch == agent->epoch && loop->used == LG_LOOP_USED) {
        leave_out(loop, from, &sums, gc);
        loop->telling = false;
    }
    lg_pending_restore(&pending);
}

static void
call_listener(struct lg_agent *agent, struct lg_loop *loop, const struct lg_tale *tale)
{
    PyObject *listener = Py_XNewRef(agent->listener);
    PyObject *info = listener != NULL ? make_info(agent, loop, tale) : NULL;
    PyObject *done = info != NULL ? PyObject_CallOneArg(listener, info) : NULL;
    Py_XDECREF(done);
    Py_XDECREF(info);
    Py_XDECREF(listener);
    raise_what_ends_the_program();
}

/* A signal handler may raise KeyboardInterrupt or SystemExit in any Python code,
 * so also in the listener: raised anew in the code that runs next. */
static void
raise_what_ends_the_program(void)
{
    PyObject *type = PyErr_Occurred();  /* borrowed */
    if (type != NULL && (PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt) ||
                         PyErr_GivenExceptionMatches(type, PyExc_SystemExit))) {
        (void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), type);
    }
    PyErr_Clear();
}

/* The time since `from_ns` was the listener's. Within a step (one that was
 * started eagerly has ended) the outer one goes on without it; between steps it
 * is a gap as any other, seen by the viewer too, but told to nobody. */
static void
leave_out(struct lg_loop *loop, uint64_t from_ns, const struct lg_sums *sums, uint64_t gc_ns)
{
    uint64_t now = lg_now_ns();
    struct lg_sums after = lg_loop_sums(loop);
    struct lg_used used;
    if (loop->awake_ns == 0) {
        lg_meter_stretch(&loop->meter, 0, &used);
        return;                         /* in poll: the next iteration begins anew */
    }
    if (loop->running != NULL) {
        loop->excluded_ns += now - from_ns;
        loop->told_in_iteration_ns += now - from_ns;
        loop->step_sums.io += after.io - sums->io;
        loop->step_sums.disk += after.disk - sums->disk;
        loop->step_sums.lock += after.lock - sums->lock;
        loop->step_sums.gil += after.gil - sums->gil;
        loop->step_gc_ns += loop->gc_ns - gc_ns;
        lg_meter_stretch(&loop->meter, 0, &used);
        return;
    }
    if (now - loop->edge_ns > loop->gap_threshold_ns) {
        lg_charge_gap(loop, now);
    }
    else {
        lg_meter_stretch(&loop->meter, 0, &used);
        loop->told_in_iteration_ns += now - from_ns;
    }
    loop->edge_sums = after;
    loop->edge_gc_ns = loop->gc_ns;
    lg_store_relaxed(&loop->edge_ns, now);
}

/* ---- from the loop's poll ---------------------------------------------- */

void
lg_tell_from_poll(struct lg_loop *loop)
{
    if (is_finalizing()) {
        return;                         /* who takes the GIL now does not come back */
    }
    PyGILState_STATE state = PyGILState_Ensure();
    /* Another thread may have stopped the agent while we waited for the GIL. */
    struct lg_loop *here = lg_loop_current();
    if (here != NULL && here == loop && here->untold != NULL) {
        lg_tell_now(loop);
        wake_loop(loop);
    }
    PyGILState_Release(state);
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

/* The loop has already decided how long to poll: what the listener scheduled,
 * a callback or a task, must not wait for the next event from outside. */
static void
wake_loop(const struct lg_loop *loop)
{
    PyObject *py_loop = loop->used == LG_LOOP_USED ? lg_loop_object(loop) : NULL;
    if (py_loop == NULL) {
        return;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *nothing = PyObject_GetAttrString(py_loop, "time");
    PyObject *handle =
        nothing != NULL ? PyObject_CallMethod(py_loop, "call_soon_threadsafe", "O", nothing) : NULL;
    Py_XDECREF(handle);
    Py_XDECREF(nothing);
    Py_DECREF(py_loop);
    raise_what_ends_the_program();
    lg_pending_restore(&pending);
}

/* ---- the dict ---------------------------------------------------------- */

/* New reference, or NULL with an exception. */
static PyObject *
make_info(struct lg_agent *agent, const struct lg_loop *loop, const struct lg_tale *tale)
{
    static const char *const kinds[] = {
        [LG_NOTE_STEP] = "step",
        [LG_NOTE_GAP] = "step",
        [LG_NOTE_ITERATION] = "iteration",
        [LG_NOTE_CUMULATIVE] = "cumulative",
    };
    const struct lg_note *f = &tale->facts;
    struct seen seen;
    bool watched = find_seen(agent, loop, f, &seen);
    bool has_call = f->call[0] != '\0';
    /* Best is the stack of the call that took the time, then the one that was
     * seen most often; one that was seen in passing is better than none. */
    const struct lg_pystack_sample *raw = NULL;
    if (f->stack.depth != 0 && f->call_ns >= f->duration_ns / 2) {
        raw = &f->stack;
    }
    else if (seen.stack == 0) {
        find_glance(loop, f, &seen.raw);
        raw = seen.raw.depth != 0 ? &seen.raw : &f->stack;
    }
    PyObject *info = PyDict_New();
    if (info == NULL) {
        return NULL;
    }
    PyObject *stack = raw != NULL ? raw_stack_object(agent, raw) : stack_object(agent, seen.stack);
    PyObject *ran = endpoint_object(agent, tale->ran);
    if (f->kind == LG_NOTE_GAP) {
        Py_XSETREF(ran, watched && seen.endpoint > LG_ENDPOINT_LOOP
                            ? endpoint_object(agent, seen.endpoint)
                            : callback_object(loop, raw, stack));
    }
    PyObject *blamed;
    if (f->kind != LG_NOTE_GAP || f->blamed_elsewhere) {
        blamed = endpoint_object(agent, f->endpoint);
    }
    else {                              /* as the viewer calls a callback that nobody saw */
        blamed =
            ran != Py_None ? Py_XNewRef(ran) : Py_BuildValue("(sss)", "callback", "", "(unknown)");
    }
    PyObject *call = has_call ? text_object(f->call) : string_object(agent, seen.call);
    uint64_t call_ns = has_call ? f->call_ns : seen.call_ns;
    /* All of them, or what comes after a failure would leak. */
    int err = add(info, "kind", text_object(kinds[f->kind]));
    err |= add(info, "start_ns", PyLong_FromUnsignedLongLong(f->start_ns));
    err |= add(info, "duration_ns", PyLong_FromUnsignedLongLong(f->duration_ns));
    err |= add(info, "threshold_ns", PyLong_FromUnsignedLongLong(f->threshold_ns));
    err |= add(info, "ran", ran);
    err |= add(info, "blamed", blamed);
    err |= add(info, "elsewhere", PyBool_FromLong(f->blamed_elsewhere));
    err |= add(info, "request_id", PyLong_FromUnsignedLong(f->request_id));
    err |= add(info, "excluded", PyBool_FromLong(tale->excluded));
    err |= add(info, "blocks", PyLong_FromUnsignedLong(tale->blocks));
    err |= add(info, "path", Py_NewRef(tale->path != NULL ? tale->path : Py_None));
    err |= add(info, "task", task_object(agent, f->task));
    err |= add(info, "loop", PyLong_FromUnsignedLong(loop->index));
    err |= add(info, "thread_id", PyLong_FromUnsignedLong(PyThread_get_thread_ident()));
    err |= add(info, "cause", text_object(cause_text(f->cause)));
    err |= add(info, "parts_ns", parts_object(f));
    err |= add(info, "call", call);
    err |= add(info, "call_ns", PyLong_FromUnsignedLongLong(call_ns));
    err |= add(info, "stack", stack);
    err |= add(info, "holder", endpoint_object(agent, seen.holder ? (int64_t)seen.holder : -1));
    err |= add(info, "holder_stack", stack_object(agent, seen.holder_stack));
    err |= add(info, "major_faults", PyLong_FromUnsignedLongLong(f->major_faults));
    err |= add(info, "open_requests", PyLong_FromUnsignedLongLong(f->open_requests));
    err |= add(info, "steps", PyLong_FromUnsignedLong(f->steps));
    if (err != 0) {
        Py_CLEAR(info);
    }
    return info;
}

/* Its entry in STALLS: the same loop at the same time. That of a cumulative
 * window is made after it was told. */
static bool
find_seen(struct lg_agent *agent, const struct lg_loop *loop, const struct lg_note *facts,
          struct seen *out)
{
    struct lg_segment *seg = &agent->rec.seg;
    memset(out, 0, sizeof(*out));
    if (facts->kind != LG_NOTE_STEP && facts->kind != LG_NOTE_GAP) {
        return false;
    }
    uint64_t end = facts->start_ns + facts->duration_ns;
    /* Pairs with the release at the end of lg_stall_write(). */
    uint64_t head = lg_load_acquire(&seg->tables->stalls_head);
    for (uint64_t back = 1; back <= STALLS_SEARCHED && back <= head; back++) {
        union {
            uint64_t words[sizeof(struct lg_stall) / 8];
            struct lg_stall stall;
        } copy;
        const struct lg_stall *s = &copy.stall;
        if (!lg_seq_read(&seg->stalls[(head - back) % seg->stall_count].seq, copy.words,
                         sizeof(copy.words) / 8, 4) ||
            LG_INFO_KIND(s->info) != LG_STALL_STEP || LG_INFO_LOOP(s->info) != loop->index ||
            s->start_ns >= end || s->start_ns + s->duration_ns <= facts->start_ns) {
            continue;
        }
        bool waited = facts->cause == LG_CAUSE_IO || facts->cause == LG_CAUSE_DISK ||
                      facts->cause == LG_CAUSE_LOCK || facts->cause == LG_CAUSE_UNKNOWN;
        out->endpoint = LG_LO(s->endpoint_holder);
        out->holder = LG_HI(s->endpoint_holder);
        out->stack = LG_LO(s->stack_holder_stack);
        out->holder_stack = LG_HI(s->stack_holder_stack);
        out->call = waited ? LG_LO(s->call_thread) : 0;
        out->call_ns = waited ? s->call_ns : 0;
        return true;
    }
    return false;
}

/* The stack seen in passing: during this very stall; of many short steps
 * the usual one of the same request or endpoint. `out` has depth 0 else. */
static void
find_glance(const struct lg_loop *loop, const struct lg_note *facts, struct lg_pystack_sample *out)
{
    union {
        uint64_t words[sizeof(struct lg_glance) / 8];
        struct lg_glance glance;
    } copy;
    const struct lg_glance *g = &copy.glance;
    bool one = facts->kind == LG_NOTE_STEP || facts->kind == LG_NOTE_GAP;
    out->depth = 0;
    if (!lg_seq_read(one ? &loop->glance.seq : &loop->usual.seq, copy.words, sizeof(copy.words) / 8,
                     4) ||
        g->at_ns <= facts->start_ns || g->frames.depth > LG_PYSTACK_DEPTH) {
        return;
    }
    bool its = LG_LO(g->endpoint_request) == facts->endpoint;
    if (one) {
        its = g->at_ns - facts->start_ns < facts->duration_ns;
    }
    else if (facts->request_id != 0 || facts->endpoint == LG_ENDPOINT_LOOP) {
        its = facts->request_id == 0 || LG_HI(g->endpoint_request) == facts->request_id;
    }
    if (its) {
        *out = g->frames;
    }
}

/* (kind, method, name), or None for -1. New reference. What is read back from
 * the segment is checked: its file can be written by others of the same user. */
static PyObject *
endpoint_object(struct lg_agent *agent, int64_t endpoint)
{
    static const char *const kinds[] = {
#define LG_X(name, number, text) [number] = text,
        LG_ENDPOINT_KINDS(LG_X)
#undef LG_X
    };
    static const char *const methods[] = {
#define LG_X(name, number, text) [number] = text,
        LG_METHODS(LG_X)
#undef LG_X
    };
    struct lg_recorder *rec = &agent->rec;
    if (endpoint < 0 || endpoint >= (int64_t)rec->seg.endpoint_count) {
        return Py_NewRef(Py_None);
    }
    uint64_t key = rec->endpoint_keys[endpoint];
    uint32_t kind = LG_KEY_KIND(key);
    uint32_t method = LG_KEY_METHOD(key);
    if (endpoint == LG_ENDPOINT_OTHER || kind >= sizeof(kinds) / sizeof(kinds[0]) ||
        method >= sizeof(methods) / sizeof(methods[0])) {
        return Py_BuildValue("(sss)", "request", "", "(other)");
    }
    PyObject *name = string_object(agent, LG_KEY_NAME(key));
    return name == NULL ? NULL : Py_BuildValue("(ssN)", kinds[kind], methods[method], name);
}

/* New reference; "" for id 0. */
static PyObject *
string_object(struct lg_agent *agent, uint32_t id)
{
    const struct lg_segment *seg = &agent->rec.seg;
    uint64_t at = (uint64_t)id * 8;
    uint16_t length = 0;
    if (id != 0 && at + 2 <= seg->string_bytes) {
        memcpy(&length, seg->strings + at, sizeof(length));
    }
    if (at + 2 + length > seg->string_bytes) {
        length = 0;
    }
    const char *text = (const char *)seg->strings + at + 2;
    return PyUnicode_DecodeUTF8(length == 0 ? "" : text, length, "replace");
}

static PyObject *
text_object(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *
task_object(struct lg_agent *agent, uint32_t task)
{
    if (task == 0) {
        return Py_NewRef(Py_None);
    }
    if (task & LG_TASK_NUMBER_BIT) {
        return PyUnicode_FromFormat("Task-%u", (unsigned)(task & ~LG_TASK_NUMBER_BIT));
    }
    return string_object(agent, task);
}

static PyObject *
parts_object(const struct lg_note *facts)
{
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i < LG_CAUSE_COUNT; i++) {
        if (facts->parts_ns[i] != 0 &&
            add(dict, cause_text(i), PyLong_FromUnsignedLongLong(facts->parts_ns[i])) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

/* A tuple of (file, function, line), innermost first. New reference. */
static PyObject *
stack_object(struct lg_agent *agent, uint32_t stack)
{
    const struct lg_segment *seg = &agent->rec.seg;
    PyObject *list = PyList_New(0);
    uint32_t at = stack != 0 && stack < seg->stack_count
                      ? LG_LO(lg_load_relaxed(&seg->stacks[stack].frame_depth))
                      : 0;
    for (int i = 0; list != NULL && i < LG_MAX_DEPTH && at != 0 && at < seg->frame_count; i++) {
        const struct lg_frame *frame = &seg->frames[at];
        uint32_t next = lg_load32_relaxed(&frame->next);
        PyObject *file = string_object(agent, lg_load32_relaxed(&frame->file));
        PyObject *function = string_object(agent, lg_load32_relaxed(&frame->function));
        PyObject *one =
            file != NULL && function != NULL
                ? Py_BuildValue("(OOI)", file, function, (unsigned)lg_load32_relaxed(&frame->line))
                : NULL;
        Py_XDECREF(file);
        Py_XDECREF(function);
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
        at = next < at ? next : 0;
    }
    PyObject *tuple = list != NULL ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

/* The same of frames that were copied in the thread itself. */
static PyObject *
raw_stack_object(struct lg_agent *agent, const struct lg_pystack_sample *raw)
{
    if (agent->walker == NULL && lg_pystack_walker_open(agent->pystack, &agent->walker) != 0) {
        agent->walker = NULL;
        return PyTuple_New(0);
    }
    PyObject *list = PyList_New(0);
    lg_pystack_begin(agent->walker);
    for (uint32_t i = 0; list != NULL && i < raw->depth; i++) {
        struct lg_pystack_symbol symbol;
        if (lg_pystack_symbol(agent->walker, &raw->frames[i], &symbol) != 0) {
            continue;                   /* that code object is gone */
        }
        PyObject *file = PyUnicode_DecodeUTF8(symbol.file, symbol.file_size_bytes, "replace");
        PyObject *function = PyUnicode_DecodeUTF8(symbol.name, symbol.name_size_bytes, "replace");
        PyObject *one = file != NULL && function != NULL
                            ? Py_BuildValue("(OOi)", file, function, (int)symbol.line)
                            : NULL;
        Py_XDECREF(file);
        Py_XDECREF(function);
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    lg_pystack_end(agent->walker);
    PyObject *tuple = list != NULL ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

/* What the loop called, by its stack; None when that cannot be told. */
static PyObject *
callback_object(const struct lg_loop *loop, const struct lg_pystack_sample *raw, PyObject *stack)
{
    Py_ssize_t common = raw != NULL ? lg_sample_common(raw, &loop->base) : 0;
    PyObject *name = stack != NULL ? callback_name(stack, common) : NULL;
    if (name == NULL && stack != NULL && common > 0) {
        /* The loop was registered from within this very callback. */
        name = callback_name(stack, 0);
    }
    PyErr_Clear();
    return name == NULL ? Py_NewRef(Py_None) : Py_BuildValue("(ssO)", "callback", "", name);
}

/* The first frame inside of the outermost `common` ones and of the loop's own
 * machinery. Borrowed, or NULL. */
static PyObject *
callback_name(PyObject *stack, Py_ssize_t common)
{
    bool inside = common > 0;
    for (Py_ssize_t i = PyTuple_GET_SIZE(stack) - common; i-- > 0;) {
        PyObject *frame = PyTuple_GET_ITEM(stack, i);
        const char *file = PyUnicode_AsUTF8(PyTuple_GET_ITEM(frame, 0));
        bool machinery = file != NULL && lg_sample_is_machinery(file);
        if (inside && !machinery) {
            return PyTuple_GET_ITEM(frame, 1);
        }
        inside = inside || machinery;
    }
    return NULL;
}

/* Steals `value`, which may be NULL. */
static int
add(PyObject *dict, const char *key, PyObject *value)
{
    int err = value == NULL ? -1 : PyDict_SetItemString(dict, key, value);
    Py_XDECREF(value);
    return err;
}

static const char *
cause_text(uint32_t cause)
{
    static const char *const texts[LG_CAUSE_COUNT] = {
#define LG_X(name, number, text) [number] = text,
        LG_CAUSES(LG_X)
#undef LG_X
    };
    return cause < LG_CAUSE_COUNT ? texts[cause] : "unknown";
}
