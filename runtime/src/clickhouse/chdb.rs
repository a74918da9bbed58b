//! The C interface of libchdb, made safe: a [`Library`], its [`Connection`]s, and nothing else.
//!
//! The library is loaded at run time and only in the engine's own process. Its functions take
//! lengths, so that neither statements nor data end at a zero byte.
#![allow(
    unsafe_code,
    reason = "libchdb is a C library; every call into it is in this module and documented"
)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    mem::ManuallyDrop,
    path::Path,
    sync::Arc,
};

/// `chdb_connection`, an opaque handle that the library owns.
type RawConnection = *mut c_void;
/// `chdb_result`, an opaque handle that the caller destroys.
type RawResult = *mut c_void;
/// `chdb_insert_stream`, an opaque handle that the caller destroys.
type RawInsert = *mut c_void;

/// Why the library could not be loaded or a connection not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChdbError {
    /// The file is missing, is not libchdb, or is a version without a function we need.
    #[error("cannot load libchdb: {0}; run deploy/setup/clickhouse.sh or set WEIR_LIBCHDB")]
    Load(#[from] libloading::Error),
    /// The engine did not start: usually the folder is in use by another process or not writable.
    #[error("the ClickHouse engine did not open its data folder (is it in use?)")]
    Connect,
    /// An argument holds a zero byte.
    #[error("an argument of the ClickHouse engine holds a zero byte")]
    Argument(#[from] std::ffi::NulError),
}

/// The functions of libchdb that we use.
pub(super) struct Library {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    close: unsafe extern "C" fn(*mut RawConnection),
    query: unsafe extern "C" fn(RawConnection, *const u8, usize, *const u8, usize) -> RawResult,
    destroy_result: unsafe extern "C" fn(RawResult),
    result_buffer: unsafe extern "C" fn(RawResult) -> *const u8,
    result_length: unsafe extern "C" fn(RawResult) -> usize,
    result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    insert: unsafe extern "C" fn(RawConnection, *const u8, usize, *const u8, usize) -> RawInsert,
    insert_append: unsafe extern "C" fn(RawInsert, *const u8, usize) -> c_int,
    insert_done: unsafe extern "C" fn(RawInsert) -> RawResult,
    insert_cancel: unsafe extern "C" fn(RawInsert),
    insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    destroy_insert: unsafe extern "C" fn(RawInsert),
    /// Keeps the code mapped, for ever: the engine's own threads may outlive its connections.
    _file: ManuallyDrop<libloading::Library>,
}

impl Library {
    /// Loads the library and looks up its functions. Its own crash handlers stay off: they sleep
    /// for minutes before the process ends, and the supervisor wants to know at once.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, ChdbError> {
        // SAFETY: libchdb's initialisers only prepare its own statics. The types of the symbols
        // are those of `chdb.h` of the pinned version; handles are passed as opaque pointers.
        unsafe {
            let file = libloading::Library::new(path)?;
            let set_signal_handlers: unsafe extern "C" fn(c_int) =
                *file.get(b"chdb_set_signal_handlers_enabled\0")?;
            let library = Self {
                connect: *file.get(b"chdb_connect\0")?,
                close: *file.get(b"chdb_close_conn\0")?,
                query: *file.get(b"chdb_query_n\0")?,
                destroy_result: *file.get(b"chdb_destroy_query_result\0")?,
                result_buffer: *file.get(b"chdb_result_buffer\0")?,
                result_length: *file.get(b"chdb_result_length\0")?,
                result_error: *file.get(b"chdb_result_error\0")?,
                insert: *file.get(b"chdb_stream_insert_n\0")?,
                insert_append: *file.get(b"chdb_stream_append\0")?,
                insert_done: *file.get(b"chdb_stream_done\0")?,
                insert_cancel: *file.get(b"chdb_stream_cancel_insert\0")?,
                insert_error: *file.get(b"chdb_stream_insert_error\0")?,
                destroy_insert: *file.get(b"chdb_destroy_insert_stream\0")?,
                _file: ManuallyDrop::new(file),
            };
            set_signal_handlers(0);
            Ok(Arc::new(library))
        }
    }

    /// Opens a connection. The first one starts the engine on the folder of `--path`, and closing
    /// the last one ends it. Settings among the arguments hold for this connection only.
    pub(super) fn connect(self: &Arc<Self>, arguments: &[String]) -> Result<Connection, ChdbError> {
        let owned: Vec<CString> = std::iter::once("clickhouse".to_owned())
            .chain(arguments.iter().cloned())
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let mut pointers: Vec<*mut c_char> =
            owned.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| ChdbError::Connect)?;
        // SAFETY: `pointers` holds `count` zero-terminated strings that live through the call;
        // the library copies what it keeps.
        let raw = unsafe { (self.connect)(count, pointers.as_mut_ptr()) };
        if raw.is_null() {
            return Err(ChdbError::Connect);
        }
        Ok(Connection { library: Arc::clone(self), raw })
    }
}

/// One connection. It runs one statement at a time, which `&mut self` says; several run in parallel.
pub(super) struct Connection {
    library: Arc<Library>,
    raw: *mut RawConnection,
}

// SAFETY: the library may be called from any thread, and runs a connection's statements on its own
// threads; that a connection is used by one caller at a time is ensured by `&mut self`.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs one statement; the answer is in `format` unless the statement names another.
    /// An error is the engine's exception text.
    pub(super) fn query(&mut self, sql: &[u8], format: &str) -> Result<Vec<u8>, String> {
        // SAFETY: `raw` is open until drop, and both buffers live through the call.
        let result = unsafe {
            (self.library.query)(*self.raw, sql.as_ptr(), sql.len(), format.as_ptr(), format.len())
        };
        self.take(result)
    }

    /// Runs `INSERT INTO ... ` (without its FORMAT clause) on `data`, which may hold any bytes.
    pub(super) fn insert(&mut self, sql: &[u8], format: &str, data: &[u8]) -> Result<(), String> {
        let library = Arc::clone(&self.library);
        // SAFETY: as in `query`; the handle is never null and is destroyed below on every way.
        let stream = unsafe {
            (library.insert)(*self.raw, sql.as_ptr(), sql.len(), format.as_ptr(), format.len())
        };
        let outcome = self.fill(stream, data);
        // SAFETY: `stream` came from the library, is destroyed once, and is not used after this.
        unsafe { (library.destroy_insert)(stream) };
        outcome
    }

    fn fill(&mut self, stream: RawInsert, data: &[u8]) -> Result<(), String> {
        let library = Arc::clone(&self.library);
        // SAFETY: `stream` is a live handle; the error text is copied before it is destroyed.
        if let Some(error) = unsafe { text((library.insert_error)(stream)) } {
            return Err(error);
        }
        // SAFETY: `data` lives through the call, and the library takes exactly its length.
        let state = unsafe { (library.insert_append)(stream, data.as_ptr(), data.len()) };
        // SAFETY: as above.
        let error = unsafe { text((library.insert_error)(stream)) };
        if state != 0 || error.is_some() {
            // SAFETY: cancelling a live stream that was not finished.
            unsafe { (library.insert_cancel)(stream) };
            return Err(error.unwrap_or_else(|| "the engine took no data".to_owned()));
        }
        // SAFETY: the stream is live and finished once.
        let result = unsafe { (library.insert_done)(stream) };
        self.take(result).map(|_| ())
    }

    /// Copies a result and destroys it.
    fn take(&self, result: RawResult) -> Result<Vec<u8>, String> {
        if result.is_null() {
            return Err("the engine gave no result".to_owned());
        }
        // SAFETY: `result` is live until `destroy_result`, its buffer has `length` bytes (and may
        // be null when that is 0), and everything is copied before.
        unsafe {
            let error = text((self.library.result_error)(result));
            let length = (self.library.result_length)(result);
            let buffer = (self.library.result_buffer)(result);
            let bytes = if buffer.is_null() || length == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(buffer, length).to_vec()
            };
            (self.library.destroy_result)(result);
            error.map_or(Ok(bytes), Err)
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `raw` is open and is closed once; no statement runs, as we own the connection.
        unsafe { (self.library.close)(self.raw) };
    }
}

/// Copies a C string. `None` for null.
///
/// # Safety
/// `pointer` is null or a zero-terminated string that lives through the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
