//! The thread that serves the disk's queue.

use super::Device;
use super::common::Common;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use virtio_queue::{Error, QueueOwnedT, QueueT};

/// The thread, which ends when this is dropped.
pub(super) struct Worker {
    device: Arc<Device>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it.
    pub(super) fn start(device: &Arc<Device>) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let run = {
            let (device, ends) = (Arc::clone(device), Arc::clone(&ends));
            move || {
                // Reading fails on signals, and there are none here.
                while device.notified.read().is_ok() && !ends.load(Ordering::Relaxed) {
                    serve(&device);
                }
            }
        };
        let thread = thread::Builder::new().name("virtio-blk".into()).spawn(run)?;
        Ok(Self { device: Arc::clone(device), ends, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        wake(&self.device);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the thread check the queue.
pub(super) fn wake(device: &Device) {
    // Fails only if the counter of a queue that is never served is full.
    let _ = device.notified.write(1);
}

/// Serves all that the driver has put into the queue. A queue that is broken, or lies where the
/// guest has mapped nothing, stops the device until the driver resets it.
fn serve(device: &Device) {
    if !device.space.lock().is_master() {
        return;
    }
    let common = &mut *device.common.lock();
    if !common.runs() {
        return;
    }
    match drain(device, common) {
        Ok(true) => device.msix.send(common.queue_vector),
        Ok(false) => {}
        Err(error) => {
            eprintln!("the guest's queue is broken: {error}");
            common.fail();
            device.msix.send(common.config_vector);
        }
    }
}

/// Carries out all requests. Returns whether the driver wants to be notified.
fn drain(device: &Device, common: &mut Common) -> Result<bool, Error> {
    let (memory, queue) = (&device.memory(), &mut common.queue);
    let mut done = false;
    loop {
        queue.disable_notification(memory)?;
        while let Some(chain) = queue.iter(memory)?.next() {
            let head = chain.head_index();
            let (request, answer) = (chain.clone().reader(memory)?, chain.writer(memory)?);
            let written = device.block.carry_out(request, answer).map_err(|_| Error::InvalidChain)?;
            queue.add_used(memory, head, written)?;
            done = true;
        }
        if !queue.enable_notification(memory)? {
            break;
        }
    }
    Ok(done && queue.needs_notification(memory)?)
}
